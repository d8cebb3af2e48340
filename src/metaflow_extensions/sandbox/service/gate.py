"""What reaches the service at all: this machine's own requests, with names that are names."""

from __future__ import annotations

import time
from urllib.parse import unquote, urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .refusals import Refusal, checked_name

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LONGEST_QUERY = 16 << 10  # bytes


class Gate:
    """The application behind it, and when it was last asked something."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.last_request = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "lifespan":
            self.last_request = time.monotonic()
            try:
                check(scope)
            except Refusal as refusal:
                await PlainTextResponse(str(refusal), refusal.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def check(scope: Scope) -> None:
    """Raise Refusal for a request that a web page may have sent, or that names what is no name."""
    for header, value in scope["headers"]:
        # A page whose name resolves to 127.0.0.1 says its own name; one that asks from elsewhere, its origin.
        if header == b"host" and hostname(f"//{value.decode('latin-1')}") not in LOOPBACK:
            raise Refusal(403, f"the host is not this machine: ask for 127.0.0.1, not {value[:80]!r}")
        if header == b"origin" and hostname(value.decode("latin-1")) not in LOOPBACK:
            raise Refusal(403, f"pages of {value[:80]!r} may not ask: open them from this machine's loopback")
    if not any(header == b"host" for header, _ in scope["headers"]):
        raise Refusal(403, "the request names no host: ask for 127.0.0.1")
    if len(scope["query_string"]) > LONGEST_QUERY:
        raise Refusal(400, f"the query is over {LONGEST_QUERY} bytes long")
    path = scope.get("raw_path") or scope["path"].encode()
    for segment in path.decode("latin-1").strip("/").split("/"):
        if path.strip(b"/"):
            checked_name(unquote(segment))


def hostname(url: str) -> str | None:
    """The host of a URL, None where there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
