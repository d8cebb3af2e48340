"""Files into a sandbox by the SDK; whatever else is done to them takes a small command."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from e2b import AsyncSandbox

from ..inner_files import Start, check_target, mode_of, python
from .account import ask
from .link import USER

COPY = 3600.0  # seconds
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
