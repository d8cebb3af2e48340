"""``mounts=`` of the decorator and METAFLOW_SANDBOX_UPLOADS: what must not be shown inside."""

from __future__ import annotations

import json
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..backends.interface import Mount
from ..backends.local_state import base_directory
from ..errors import UnsupportedOption
from ..supervisor import run_directories
from ..supervisor.inside import INSIDE
from ..supervisor.protocol import Upload
from .attributes import is_path

UPLOADS = "METAFLOW_SANDBOX_UPLOADS"
UPLOAD_SHAPE = 'a JSON list of {"local": "/here", "remote": "/inside", "mode": "0755"}'
PERMISSIONS = re.compile(r"0?[0-7]{3}")
# Processes, devices and settings of the launcher's machine.
KERNELS_OWN = tuple(map(Path, ("/proc", "/sys", "/dev")))


def as_mounts(entries: Iterable[Mapping[str, str]]) -> tuple[Mount, ...]:
    """The attribute's entries for a backend."""
    return tuple(
        Mount(_local(entry["local"]), PurePosixPath(entry["remote"]), entry["mode"] == "ro")
        for entry in entries
    )


def parse_uploads(value: str | None) -> list[Upload]:
    """What METAFLOW_SANDBOX_UPLOADS says. Raises UnsupportedOption for what can't be uploaded."""
    if not value:
        return []
    try:
        entries = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        entries = None
    if not isinstance(entries, list):
        raise UnsupportedOption(f"{UPLOADS} is {UPLOAD_SHAPE}; it is {value!r}")
    return [_upload(entry) for entry in entries]


def _upload(entry: Any) -> Upload:
    if not isinstance(entry, dict) or not {"local", "remote"} <= entry.keys() <= {"local", "remote", "mode"}:
        raise UnsupportedOption(f"{UPLOADS} is {UPLOAD_SHAPE}; one entry is {entry!r}")
    mode = entry.get("mode")
    if not all(is_path(entry[side]) for side in ("local", "remote")) or not (
        mode is None or (isinstance(mode, str) and PERMISSIONS.fullmatch(mode))
    ):
        raise UnsupportedOption(
            f"{UPLOADS} is {UPLOAD_SHAPE}, the mode three octal digits; one entry is {entry!r}"
        )
    source, target = _local(entry["local"]), PurePosixPath(entry["remote"])
    _check_source(UPLOADS, source)
    if not source.is_file():
        raise UnsupportedOption(f"{UPLOADS}: {source} is a directory, and files are copied: use mounts=")
    _check_target(UPLOADS, target)
    return Upload(source, target, None if mode is None else bool(int(mode, 8) & 0o111))


def check_mounts(mounts: Sequence[Mount], flow: Path, datastore: Path | None, caches: Iterable[Path]) -> None:
    """Raise UnsupportedOption for a mount that would show, or let be changed, what keeps sandboxes apart.

    ``flow`` is the directory of the flow's own file, ``datastore`` the root of a local datastore, ``caches``
    hold what other sandboxes use.
    """
    for mount in mounts:
        _check_source("mounts=", mount.source)
        _check_target("mounts=", mount.target)
        source = mount.source.resolve()
        for place in caches:
            if _overlap(source, place.resolve()):
                raise UnsupportedOption(
                    f"mounts={mount.source}: that holds {place}, which all sandboxes use: choose another"
                )
        if mount.read_only:
            continue
        if source == flow or source in flow.parents:
            raise UnsupportedOption(
                f"mounts={mount.source} is writable and holds the flow's own code, which steps outside "
                "sandboxes run: leave out rw, or mount a directory of its own for what the step writes"
            )
        if datastore is not None and _overlap(source, datastore.resolve()):
            raise UnsupportedOption(
                f"mounts={mount.source} is writable and holds the datastore of all runs, {datastore}: leave "
                "out rw, or mount a directory of its own for what the step writes"
            )


def _local(text: str) -> Path:
    return Path(text).expanduser() if text.startswith("~") else Path(text)


def _check_source(what: str, source: Path) -> None:
    if not source.is_absolute():
        raise UnsupportedOption(
            f"{what} names {str(source)!r}, which depends on where the flow is started: write the whole path"
        )
    try:
        real = source.resolve(strict=True)
        kind = real.stat().st_mode
    except (OSError, RuntimeError) as error:  # Python 3.12 and older raise RuntimeError for links in a circle
        raise UnsupportedOption(f"{what} names {source}, which can't be used ({error}): create it") from error
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise UnsupportedOption(
            f"{what} names {source}, which is a socket, a pipe or a device: only files and directories are "
            "shown inside"
        )
    private = [base_directory(), Path(tempfile.gettempdir(), run_directories.PREFIX)]
    if any(_overlap(real, place.resolve()) for place in private) or any(
        part.startswith(run_directories.PREFIX) for part in real.parts
    ):
        raise UnsupportedOption(
            f"{what} names {source}, which holds the state of all sandboxes of this user: choose a directory "
            "of its own"
        )
    if any(_overlap(real, place) for place in KERNELS_OWN):
        raise UnsupportedOption(f"{what} names {source}, which shows this machine's processes and devices")


def _check_target(what: str, target: PurePosixPath) -> None:
    if not target.is_absolute() or ".." in target.parts:
        raise UnsupportedOption(
            f"{what} names {str(target)!r} inside, which must be an absolute path without '..'"
        )
    if target == INSIDE or target in INSIDE.parents or INSIDE in target.parents:
        raise UnsupportedOption(
            f"{what} names {target} inside, where the sandbox's own files are: choose another place, such as "
            "/mnt/data"
        )


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents
