"""Tells troubles by HTTP: a POST of JSON each, taken where the answer is 2xx."""

import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit

from kompensate.orchestrator.hook.once import NotTold
from kompensate.schemas.messages import JSON

ANSWER_SECONDS = 10.0
"""A receiver that takes longer should take it down and work on it later."""


class Webhook:
    """Posts to `url`. Raises ValueError for one that is no http or https address."""

    def __init__(self, url: str, *, timeout: float = ANSWER_SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"URL: expected https://HOST/… or http://HOST/…, got {parts.scheme or 'no scheme'}")
        self._url, self._timeout = url, timeout
        self.host = parts.hostname
        """All of the address that is logged: the rest may be a secret."""

    def tell(self, id_: str, body: bytes) -> None:
        """Raises NotTold, whatever the answer is but 2xx: an address that is wrong today is mended tomorrow."""
        headers = {"content-type": JSON, "idempotency-key": id_, "user-agent": "kompensate-hook"}
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310  # checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise NotTold(f"expected {self.host} to answer 2xx, got {error.code} {error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise NotTold(f"expected {self.host} to answer within {self._timeout:g} s, got {error}") from error
