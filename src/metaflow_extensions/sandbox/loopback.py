"""HTTP to a service on this machine: standard library alone, connections that are kept.

``requests`` is a third of what a Metaflow task imports.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage
from typing import Any
from urllib.parse import quote, urlsplit

LOCAL = "http://127.0.0.1:"
TIMEOUT = 60.0  # seconds for an answer
AS_IS = "!#$%&'()*+,/:;=?@[]~"  # what requests leaves in a URL


@dataclass(frozen=True)
class Answer:
    """A response, with the names that ``requests`` has for its parts."""

    status_code: int
    headers: Mapping[str, str] | HTTPMessage
    text: str

    def json(self) -> Any:
        """The body. Raises ValueError when it is not JSON."""
        return json.loads(self.text)


IDLE: defaultdict[str, deque[HTTPConnection]] = defaultdict(deque)
# A child would write into its parent's conversation.
os.register_at_fork(after_in_child=IDLE.clear)


def ask(method: str, url: str, headers: Mapping[str, Any], body: str | None = None) -> Answer:
    """One request to a LOCAL url; from any thread. Raises OSError."""
    place = urlsplit(url)
    target = quote(f"{place.path}?{place.query}" if place.query else place.path, safe=AS_IS)
    data = None if body is None else body.encode()
    given = {name: str(value) for name, value in headers.items()}
    with suppress(IndexError):
        kept = IDLE[place.netloc].pop()
        # One that the service has closed since, or whose service was killed.
        with suppress(ConnectionError):
            return exchange(kept, method, target, given, data)
    return exchange(HTTPConnection("127.0.0.1", place.port, timeout=TIMEOUT), method, target, given, data)


def exchange(
    connection: HTTPConnection, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> Answer:
    """Ask through a connection, and keep it for the next request."""
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except HTTPException as error:
        connection.close()
        if isinstance(error, OSError):
            raise
        raise OSError(f"no HTTP answer to {method} {target}: {error!r}") from error
    except BaseException:
        connection.close()
        raise
    if not response.will_close:
        IDLE[f"{connection.host}:{connection.port}"].append(connection)
    return Answer(response.status, response.headers, text)
