"""The door to Kafka Connect's REST interface (Kafka documentation, "Kafka Connect", REST API). It holds no policy.

User and password of the address, where it has them, go along as basic authentication and into no message.
"""

import base64
import json
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from kompensate.outbox.errors import Halted

ANSWER_SECONDS = 90.0
"""Connect hands a request on to its leader, and validating asks the database: it gives up after 90 s itself."""

BUSY_SECONDS, BUSY_POLL_SECONDS = 30.0, 0.5


class ConnectAway(Halted):
    """Kafka Connect does not answer."""


class ConnectRefused(Halted):
    """Kafka Connect answers with an error; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Connect:
    """One cluster of Kafka Connect. Methods raise ConnectAway, ConnectRefused."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for what is no http or https address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            got = parts.scheme or "no scheme"
            raise ValueError(f"Kafka Connect: expected an address as in http://connect:8083, got {got}")
        at = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        self.address = f"{parts.scheme}://{at}{parts.path.rstrip('/')}"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def version(self) -> str:
        """Kafka's, of this cluster."""
        return str(self._ask("GET", "/")["version"])

    def plugins(self) -> list[str]:
        """The connector classes that it has."""
        return [str(plugin["class"]) for plugin in self._ask("GET", "/connector-plugins")]

    def problems(self, name: str, configuration: dict[str, str]) -> list[tuple[str, str]]:
        """(setting, what is wrong with it), as the connector itself validates; it connects to the database for that."""
        plugin = configuration["connector.class"].rpartition(".")[2]
        answer = self._ask("PUT", f"/connector-plugins/{plugin}/config/validate", {**configuration, "name": name})
        values = [one["value"] for one in answer["configs"]]
        return [(str(value["name"]), str(error)) for value in values for error in value["errors"]]

    def put(self, name: str, configuration: dict[str, str]) -> None:
        """Make the connector, or give it this configuration. One that is no other restarts nothing."""
        self._ask("PUT", f"/connectors/{quote(name, safe='')}/config", configuration)

    def restart_failed(self, name: str) -> None:
        """Start what has failed of the connector anew."""
        self._ask("POST", f"/connectors/{quote(name, safe='')}/restart?includeTasks=true&onlyFailed=true")

    def configuration(self, name: str) -> dict[str, str] | None:
        """What the connector is configured with; None where there is none."""
        return self._of(name, "config")

    def status(self, name: str) -> dict[str, Any] | None:
        """The connector's state and its tasks'; None as long as there is none."""
        return self._of(name, "status")

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """The positions that the connector has stored, as it writes them."""
        found = self._of(name, "offsets") or {}
        return [one["offset"] for one in found.get("offsets", []) if one.get("offset")]

    def _of(self, name: str, what: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ask("GET", f"/connectors/{quote(name, safe='')}/{what}")
        except ConnectRefused as error:
            if error.status == 404:
                return None
            raise
        return found

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        """Connect answers 409 while it hands out work (Kafka documentation, as above): asked again then."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._ask_once(method, path, body)
            except ConnectRefused as error:
                if error.status != 409 or time.monotonic() > deadline:
                    raise
            time.sleep(BUSY_POLL_SECONDS)

    def _ask_once(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.address + path, data, self._headers, method=method)  # noqa: S310  # checked
        try:
            with urllib.request.urlopen(asked, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                raise ConnectRefused(error.code, self._refusal(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConnectAway(
                f"Kafka Connect at {self.address}: expected an answer, got {reason}: is it running, and is that its "
                "address?"
            ) from error

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        try:
            said = json.loads(error.read())["message"]
        except (OSError, ValueError, KeyError, TypeError):
            said = error.reason
        advice = ": give them in the address, http://user:password@…" if error.code in (401, 403) else ""
        return f"Kafka Connect at {self.address}: {error.code} {said}{advice}"
