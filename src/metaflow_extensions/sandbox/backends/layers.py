"""Files that a sandbox is to have, unpacked in one that is there already."""

from __future__ import annotations

from typing import TypeVar

from ..errors import StartFailed
from .interface import Command, Layer, Sandbox

S = TypeVar("S", bound=Sandbox)
# Not the image's tar, which it need not have; newer Pythons warn where no filter is named. One line: it is a
# line of a build's log, too.
UNPACK = (
    "import os, sys, tarfile; os.chdir(sys.argv[1]); archive = tarfile.open(sys.argv[2]); "
    "archive.extraction_filter = getattr(tarfile, 'fully_trusted_filter', None); "
    "archive.extractall(); os.unlink(sys.argv[2])"
)


def unpacking(layer: Layer) -> list[str]:
    """The command for an archive that is already in the layer's place."""
    return ["python3", "-I", "-c", UNPACK, str(layer.place), layer.archive.name]


def add(sandbox: S, layer: Layer) -> S:
    """The sandbox with those files. Raises StartFailed, and then it is closed."""
    try:
        _put(sandbox, layer)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _put(sandbox: Sandbox, layer: Layer) -> None:
    sandbox.put(layer.archive, layer.place / layer.archive.name)
    process = sandbox.start(Command(unpacking(layer)))
    said = b"".join(chunk.data for chunk in process.output()).decode(errors="replace").strip()
    if process.wait():
        raise StartFailed(f"packages can't be unpacked in {layer.place}: {said}")
