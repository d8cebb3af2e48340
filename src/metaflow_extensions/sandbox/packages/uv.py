"""The program uv: where it is, and what it is asked."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path

from ..errors import PackagesFailed

WAIT = 600.0  # seconds for an index to answer all that a resolution asks


def find_uv() -> str:
    """Path of uv: the one on PATH, else the one in the package uv. Raises PackagesFailed without one."""
    found = shutil.which("uv")
    if found:
        return found
    try:
        return str(importlib.import_module("uv").find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise PackagesFailed(
            "packages= and requirements= need the program uv, and there is none on PATH: "
            "pip install 'metaflow-sandbox[packages]'"
        ) from error


def ask(*words: str, given: str = "", cwd: Path | None = None) -> str:
    """What uv prints, with the user's own settings for indexes. Raises PackagesFailed with what it says."""
    try:
        done = subprocess.run(
            [find_uv(), *words],
            input=given,
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PackagesFailed(
            f"uv has not answered within {WAIT:.0f} s: is the package index reachable?"
        ) from error
    if done.returncode:
        raise PackagesFailed(done.stderr.strip() or f"uv ended with {done.returncode}")
    return done.stdout
