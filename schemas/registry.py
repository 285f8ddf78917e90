"""A schema registry that speaks Confluent's REST API (Confluent's own, Apicurio under `/apis/ccompat/v7`).

Optional: `AvroPayloads(…, registry=Registry(url))` asks it for schema ids that no file has, so that a reader need not
be deployed before a writer. The address is the configuration's, never a message's; nothing is registered by itself.
Three requests are all that is needed of it, so this is no client library (Confluent's takes half a second to import
and brings five packages).
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

from kompensate.schemas.payloads import PayloadUnavailable

ANSWER_SECONDS = 5.0
"""Whoever reads a payload waits for it."""
ANSWER_BYTES_MAX = 1024 * 1024
UNKNOWN_SECONDS = 5.0
"""An id that the registry did not give is not asked for again so soon: messages may name any."""
UNKNOWN_MAX = 1024

_MEDIA = "application/vnd.schemaregistry.v1+json"


class RegistryRefused(ValueError):
    """The registry answered, and did not take what was asked: an incompatible schema, say."""


class Registry:
    """The registry at `url`. `authorization` is sent as the header of that name (`Basic …`, `Bearer …`).

    Raises ValueError for a `url` that is no http or https address.
    """

    def __init__(
        self,
        url: str,
        *,
        authorization: str | None = None,
        timeout: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("registry: expected https://HOST/… without a name in it, got another URL")
        self._url, self._authorization, self._timeout, self._clock = url.rstrip("/"), authorization, timeout, clock
        self._host = parts.hostname
        self._schemas: dict[int, Any] = {}
        self._unknown: dict[int, tuple[float, str]] = {}

    def schema(self, id_: int) -> Any:
        """The schema of that id, as JSON has it; asked for once. Raises PayloadUnavailable."""
        if id_ not in self._schemas:
            self._schemas[id_] = self._asked(id_)
        return self._schemas[id_]

    def _asked(self, id_: int) -> Any:
        since, why = self._unknown.get(id_, (0.0, ""))
        if why and self._clock() - since < UNKNOWN_SECONDS:
            raise PayloadUnavailable(why)
        try:
            answer = self._call(f"/schemas/ids/{id_}")
            if answer.get("schemaType", "AVRO") != "AVRO":
                raise RegistryRefused(f"one of type {answer['schemaType']}")
            return json.loads(answer["schema"])
        except (RegistryRefused, OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            why = f"registry {self._host}: expected the Avro schema of id {id_}, got {error or type(error).__name__}"
            if len(self._unknown) >= UNKNOWN_MAX:
                self._unknown.clear()
            self._unknown[id_] = (self._clock(), why)
            raise PayloadUnavailable(why) from error

    def id_of(self, subject: str, schema: Any) -> int:
        """The id under which `subject` has `schema`. Raises RegistryRefused, OSError."""
        return self._id(f"/subjects/{quote(subject, safe='')}", schema)

    def register(self, subject: str, schema: Any) -> int:
        """Register `schema` as the newest of `subject`; its id. Raises RegistryRefused, OSError."""
        return self._id(f"/subjects/{quote(subject, safe='')}/versions", schema)

    def _id(self, path: str, schema: Any) -> int:
        found = self._call(path, json.dumps({"schema": json.dumps(schema)}).encode()).get("id")
        if not isinstance(found, int):
            raise RegistryRefused(f"registry {self._host}, {path}: expected an id, got {found!r}")
        return found

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"accept": _MEDIA, "content-type": _MEDIA, "user-agent": "kompensate"}
        if self._authorization is not None:
            headers["authorization"] = self._authorization
        request = urllib.request.Request(self._url + path, body, headers)  # noqa: S310  # checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                text = answer.read(ANSWER_BYTES_MAX + 1)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode(errors="replace")
            error.close()
            raise RegistryRefused(f"{error.code} {error.reason} {said}".strip()) from error
        if len(text) > ANSWER_BYTES_MAX:
            raise RegistryRefused(f"more than {ANSWER_BYTES_MAX} bytes")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise RegistryRefused(f"{type(found).__name__} instead of an object")
        return found
