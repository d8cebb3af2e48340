"""Files into a sandbox by the SDK, and out of it as the SDK reads them, but uncompressed.

Whatever else is done to them takes a small command.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import httpx
from e2b import AsyncSandbox

from ...errors import StartFailed
from ..inner_files import Start, check_target, mode_of, python
from .account import ANSWER, ask
from .failures import translated
from .link import USER

COPY = 3600.0  # seconds
PIECE = 1 << 20  # bytes
MODE = "import os, sys; os.chmod(sys.argv[1], int(sys.argv[2]))"
MADE_WITH = 0o644


def put(sandbox: AsyncSandbox, start: Start, source: Path, target: PurePosixPath) -> None:
    """Copy a file to an absolute path inside. Raises UnsupportedOption for another."""
    with source.open("rb") as file:
        check_target(target)
        ask(
            f"the copy to {target}",
            lambda: sandbox.files.write(str(target), file, user=USER, use_octet_stream=True),
            COPY,
        )
        mode = mode_of(source)
        if mode != MADE_WITH:
            start(python(MODE, str(target), str(mode))).wait()


def read(sandbox: AsyncSandbox, source: PurePosixPath) -> Iterator[bytes]:
    """A file's content. Raises FileNotFoundError, or an error of our tree, also on the way."""
    doing = f"the read of {source}"
    connection = sandbox.connection_config
    # The SDK's own read takes compressed answers only, which cost E2B twenty times as long.
    headers = {**connection.sandbox_headers, "Accept-Encoding": "identity"}
    url = connection.get_sandbox_url(sandbox.sandbox_id, sandbox.sandbox_domain) + "/files"
    asked = {"path": str(source), "username": USER}
    try:
        with _client().stream("GET", url, params=asked, headers=headers) as answer:
            if answer.status_code == httpx.codes.NOT_FOUND:
                raise FileNotFoundError(f"there is no file {source} in the sandbox")
            if answer.status_code != httpx.codes.OK:
                raise StartFailed(f"{doing}: E2B answers {answer.status_code}: {answer.read()[:300]!r}")
            yield from answer.iter_raw(PIECE)
    except httpx.HTTPError as error:
        raise translated(error, doing) from error


@functools.cache
def _client() -> httpx.Client:
    return httpx.Client(timeout=ANSWER)
