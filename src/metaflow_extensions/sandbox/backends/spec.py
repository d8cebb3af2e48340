"""What a sandbox is asked to be, with its parts; ``interface`` has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Mount:
    """A host path made visible inside at ``target``; sockets and files as well as directories."""

    source: Path
    target: PurePosixPath
    read_only: bool = True


@dataclass(frozen=True)
class PythonEnvironment:
    """The launcher's interpreter and every host directory that it imports from.

    ``roots`` are the host paths to show read-only at their own place; ``path`` are the entries of
    ``sys.path`` that no site directory provides, to be passed on as ``PYTHONPATH``.
    """

    executable: Path
    roots: tuple[Path, ...] = ()
    path: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Secret:
    """A value that commands use and never see.

    They find a placeholder in the variable ``name``; the value takes its place in requests to ``hosts``,
    which are names, or ``*.`` and a domain for all below it.
    """

    name: str
    value: str = field(repr=False)
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Files that a sandbox has from its start: those of a compressed tar, whose names begin below ``place``.

    Absolute names stay as they are. ``key`` is the content's: the same one is the same files.
    """

    key: str
    archive: Path = field(compare=False)
    place: PurePosixPath


@dataclass(frozen=True)
class SandboxSpec:
    """Everything a backend needs to make one sandbox.

    ``cpu`` is in cores, ``memory`` and ``disk`` in MiB, ``lifetime`` in seconds. ``network`` is
    "none", "host", "public" or a tuple of host names. ``None`` means that the user did not ask:
    the backend uses its own documented default. ``tell`` shows the user a line while ``open`` takes
    its time, such as the progress of a pull.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    cpu: float | None = None
    memory: int | None = None
    disk: int | None = None
    gpu: int | None = None
    processes: int | None = None
    network: str | tuple[str, ...] = "none"
    mounts: Sequence[Mount] = ()
    python: PythonEnvironment | None = None
    lifetime: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: Sequence[Secret] = ()
    layer: Layer | None = None
    tell: Callable[[str], None] | None = field(default=None, compare=False)
