"""Files that sandboxes have from their start: in a template that is built here, or put into a user's own."""

from __future__ import annotations

import shlex

from e2b import AsyncTemplate
from e2b.template.main import TemplateBuilder

from ...errors import StartFailed
from ..interface import Command, Layer
from .sandbox import E2BSandbox

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


def with_layer(image: str, layer: Layer | None) -> TemplateBuilder:
    """What a template is built from."""
    if layer is None:
        return AsyncTemplate().from_image(image)
    builder = AsyncTemplate(file_context_path=str(layer.archive.parent)).from_image(image)
    # Compressed already.
    builder.copy(layer.archive.name, f"{layer.place}/", user="root", gzip=False)
    return builder.run_cmd(shlex.join(unpacking(layer)), user="root")


def add(sandbox: E2BSandbox, layer: Layer) -> E2BSandbox:
    """The sandbox with those files. Raises StartFailed, and then it is closed."""
    try:
        _put(sandbox, layer)
    except BaseException:
        sandbox.close()
        raise
    return sandbox


def _put(sandbox: E2BSandbox, layer: Layer) -> None:
    sandbox.put(layer.archive, layer.place / layer.archive.name)
    process = sandbox.start(Command(unpacking(layer)))
    said = b"".join(chunk.data for chunk in process.output()).decode(errors="replace").strip()
    if process.wait():
        raise StartFailed(f"packages can't be unpacked in {layer.place}: {said}")
