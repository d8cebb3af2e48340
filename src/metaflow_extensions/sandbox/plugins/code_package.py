"""The flow's code as the code package would hold it, in a directory that sandboxes mount."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

WAIT = 60.0  # seconds for Metaflow's thread to list the files
POLL = 0.002  # seconds


class CodeTooLarge(ValueError):
    """The code is over the limit."""


def user_files(package: Any) -> list[tuple[str, str]]:
    """(path, name in the package) of the user's files.

    Metaflow lists them on a thread and then compresses them, together with itself, which takes
    as long as a step; the list alone is enough here.
    """
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        members = getattr(package, "_cached_user_members", None)
        if members is not None:
            return list(members)
        if not package._create_thread.is_alive():
            break
        time.sleep(POLL)
    return list(package.user_tuples())


def copy_code(package: Any, target: Path, max_size: int) -> None:
    """Copy the user's files below ``target``. Raises CodeTooLarge over ``max_size`` bytes."""
    size = 0
    target.mkdir()
    for source, name in user_files(package):
        if not Path(source).is_file():
            continue  # a pipe, a link to nowhere or a file that is gone again holds no code
        place = target / name
        size += Path(source).stat().st_size
        if size > max_size:
            raise CodeTooLarge(
                f"The flow's code is over {max_size >> 20} MiB ({name} and what is packaged before it). "
                "Move data out of the flow's directory, narrow --package-suffixes, or set "
                "METAFLOW_SANDBOX_MAX_CODE, in MiB."
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        # Read by whoever the backend runs the step as; the run's directory is private.
        place.chmod(0o755 if Path(source).stat().st_mode & 0o100 else 0o644)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
