"""Wheels from their indexes into the cache, each checked against its hash."""

from __future__ import annotations

import contextlib
import hashlib
import netrc
import os
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import PackagesFailed
from .cache import PackageCache
from .lock import Wheel

AT_ONCE = 8
TIMEOUT = 60.0  # seconds without a byte
TRIES = 3
CHUNK = 1 << 20  # bytes
# What names indexes to uv; each may hold several URLs, with names and passwords in them.
INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")


def fetch(wheels: Sequence[Wheel], cache: PackageCache) -> list[Path]:
    """The wheels' files. Raises PackagesFailed for one that can't be had or isn't what the lock says."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda wheel: _fetch(wheel, cache), wheels))


def _fetch(wheel: Wheel, cache: PackageCache) -> Path:
    path = cache.wheels / wheel.sha256 / wheel.filename
    if path.exists() and digest(path) == wheel.sha256:
        os.utime(path)
        return path
    for number in range(1, TRIES + 1):
        try:
            return _download(wheel, path, cache)
        except (ConnectionError, TimeoutError, HTTPException) as error:  # noqa: PERF203 -- that is the loop
            if number == TRIES:
                raise PackagesFailed(_gone(wheel, error)) from error
    raise AssertionError("unreachable")


def _download(wheel: Wheel, path: Path, cache: PackageCache) -> Path:
    try:
        answer = urllib.request.urlopen(request(wheel.url), timeout=TIMEOUT)  # noqa: S310 -- uv's own answer
    except (urllib.error.URLError, ValueError) as error:
        raise PackagesFailed(_gone(wheel, error)) from error
    with answer, contextlib.ExitStack() as stack:
        with cache.writing():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = stack.enter_context(
                tempfile.NamedTemporaryFile(dir=cache.wheels, prefix=".", delete=False)
            )
        stack.callback(Path(draft.name).unlink, missing_ok=True)
        size = 0
        while chunk := answer.read(CHUNK):
            size += len(chunk)
            with cache.writing():
                draft.write(chunk)
        if size < int(answer.headers.get("Content-Length") or 0):
            raise ConnectionResetError(f"{size} bytes came of {answer.headers['Content-Length']}")
        with cache.writing():
            draft.flush()
            _check(wheel, Path(draft.name))
            Path(draft.name).rename(path)
    return path


def _check(wheel: Wheel, path: Path) -> None:
    found = digest(path)
    if found != wheel.sha256:
        raise PackagesFailed(
            f"{wheel.filename} from {urlsplit(wheel.url).hostname or 'this machine'} has the hash "
            f"sha256:{found}, and the lock says sha256:{wheel.sha256}: it was damaged or changed on its way. "
            "Try again; if it stays, ask whoever keeps that index"
        )


def _gone(wheel: Wheel, error: BaseException) -> str:
    return (
        f"{wheel.filename} can't be fetched from {urlsplit(wheel.url).hostname or wheel.url}: {error}. Is "
        "the index reachable from this machine?"
    )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    hashed = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


def request(url: str) -> urllib.request.Request:
    """The request for a file, with the name and password that the user has for its host."""
    parts = urlsplit(url)
    found = urllib.request.Request(url)  # noqa: S310 -- as above
    login = _login(parts.hostname or "")
    if login and parts.scheme in ("http", "https"):
        found.add_header("Authorization", f"Basic {b64encode(':'.join(login).encode()).decode()}")
    return found


def _login(host: str) -> tuple[str, str] | None:
    for name in INDEXES:
        for text in os.environ.get(name, "").split():
            index = urlsplit(text.partition("=")[2] if "=" in text.partition("://")[0] else text)
            if index.hostname == host and index.username:
                return unquote(index.username), unquote(index.password or "")
    with contextlib.suppress(OSError, netrc.NetrcParseError):  # there is none, or none that can be read
        found = netrc.netrc().authenticators(host)
        if found:
            return found[0], found[2] or ""
    return None
