"""Files into a box, over the input of a small command: the SDK's own copies miss /tmp."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ...errors import SandboxLost, UnsupportedOption
from ..file_copies import check_target
from ..interface import Command
from .attachment import PYTHON
from .process import CHUNK, BoxliteProcess

Start = Callable[[Command], BoxliteProcess]
PUT = """
import os, shutil, sys
target, mode = sys.argv[1], int(sys.argv[2])
os.makedirs(os.path.dirname(target), exist_ok=True)
draft = target + ".draft"
with open(draft, "xb") as file:
    shutil.copyfileobj(sys.stdin.buffer, file)
os.chmod(draft, mode)
os.replace(draft, target)
"""


def put(start: Start, source: Path, target: PurePosixPath) -> None:
    """Copy a file to an absolute path inside. Raises UnsupportedOption for another."""
    with source.open("rb") as file:
        check_target(target)
        mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
        words = [PYTHON, "-I", "-S", "-c", PUT, str(target), str(mode)]
        process = start(Command(words, stdin=True))
        with contextlib.suppress(SandboxLost):  # how it ended says more
            while data := file.read(CHUNK):
                process.send(data)
        process.send(b"")
    said = b"".join(output.data for output in process.output())
    if process.wait():
        raise UnsupportedOption(f"{target} can't be written inside: {said.decode(errors='replace')[-500:]}")
