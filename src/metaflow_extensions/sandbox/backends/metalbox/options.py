"""The keys of backend_options, and the paths that a step may or may not reach."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UnsupportedOption

_KNOWN = {
    "metal_memory": "MiB of Metal memory for each Python process",
    "metal_cache": "MiB of Metal's cache for each Python process",
    "cpus": '"default" or "background" (efficiency cores)',
    "read_only": "list of absolute paths that the step may read",
    "read_write": "list of absolute paths that the step may also write",
}


@dataclass(frozen=True)
class Options:
    """What backend_options ask for; sizes in MiB, real paths."""

    metal_memory: int | None = None
    metal_cache: int | None = None
    cpus: str = "default"
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Raises UnsupportedOption for an unknown key or a value of the wrong kind."""
        wrong = [name for name, value in given.items() if not _fits(name, value)]
        if wrong:
            known = "; ".join(f"{name}: {what}" for name, what in _KNOWN.items())
            raise UnsupportedOption(f"backend_options {sorted(wrong)} can't be honoured; there are: {known}")
        kept = dict(given)
        for name in ("read_only", "read_write"):
            kept[name] = tuple(nameable(Path(path).resolve()) for path in given.get(name, ()))
        return cls(**kept)


def nameable(path: Path) -> Path:
    """Return the path, unless a rule of macOS's sandbox can't name it, which raises UnsupportedOption."""
    if not _nameable(str(path)):
        raise UnsupportedOption(
            f"{path} can't stand in a sandbox profile: rename what has a quote in its name"
        )
    return path


def plain(path: Path) -> str:
    """Return the path for a command line that MetalBox splits on white space and bash then reads."""
    if shlex.quote(str(path)) != str(path):
        raise UnsupportedOption(
            f"{path} can't stand in MetalBox's command line: move it to a path without spaces"
        )
    return str(path)


def hidden(directory: Path, shown: Sequence[Path]) -> Iterator[Path]:
    """Everything in a directory except what is shown and what lies on the way to it."""
    if any(directory == path or path in directory.parents for path in shown):
        return
    for entry in sorted(directory.iterdir()):
        if entry in shown:
            continue
        if any(entry in path.parents for path in shown):
            yield from hidden(entry, shown)
        elif _nameable(str(entry)):
            yield entry


def _nameable(path: str) -> bool:
    return path.isprintable() and not set('"\\') & set(path)


def _fits(name: str, value: Any) -> bool:
    if name in ("metal_memory", "metal_cache"):
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if name == "cpus":
        return value in ("default", "background")
    if name not in _KNOWN or not isinstance(value, (list, tuple)):
        return False
    return all(isinstance(path, str) and os.path.isabs(path) for path in value)  # noqa: PTH117
