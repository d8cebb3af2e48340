"""Files that every sandbox gets, copied in before its command starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..backends.interface import Sandbox
from .protocol import Upload


def upload(sandbox: Sandbox, files: Iterable[Upload], directory: Path) -> None:
    """Put the files into a sandbox; ``directory`` takes copies of those that change their permissions."""
    for number, file in enumerate(files):
        source = file.local
        if file.executable is not None and file.executable != bool(source.stat().st_mode & 0o100):
            source = directory / f"upload{number}"
            shutil.copyfile(file.local, source)
            source.chmod(0o755 if file.executable else 0o644)
        sandbox.put(source, file.remote)
