"""The real pybox for the tests, with root file systems of ours in place of what it would pull.

Images come from Docker Hub alone, over https. So ``pybox`` is started by a program of the tests which puts a
directory, named by its path, in the place of what the puller returns; all else is pybox as installed.
"""

from __future__ import annotations

import os
from pathlib import Path

from metaflow_extensions.sandbox.backends.pybox.program import CHOICE, executable
from metaflow_extensions.sandbox.errors import BackendUnavailable

PROGRAM = """
from pathlib import Path
from pybox.exceptions import ImageNotFoundError, ImagePullError
from pybox.image import puller

async def pull(self, image_ref):
    if not Path(image_ref).is_dir():
        missing = ImageNotFoundError(image_ref)
        raise ImagePullError(f"Failed to pull image '{image_ref}'", details=str(missing))
    return None, [Path(image_ref)]

puller.ImagePuller.pull = pull

from pybox.cli.main import app

app()
"""


def why_no_pybox() -> str | None:
    """What is missing to run it, None when nothing is."""
    if os.geteuid():
        return "pybox mounts images, as root"
    try:
        executable()
    except BackendUnavailable as error:
        return str(error)
    return None


def settings(directory: Path) -> dict[str, str]:
    """The environment that makes the backend use it, with files in ``directory``."""
    interpreter = Path(executable()).read_text().splitlines()[0]
    program = directory / "pybox-of-the-tests"
    program.write_text(f"{interpreter}\n{PROGRAM}")
    program.chmod(0o755)
    return {CHOICE: str(program), "PYBOX_ROOT": str(directory / "pybox-store")}
