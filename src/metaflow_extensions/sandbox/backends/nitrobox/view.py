"""What one command sees besides its image: directories of the launcher, arranged for nitrobox.

nitrobox mounts directories only, in the order given, and its own tmpfs over them. So what is writable
is one file system of ours, and single files are links in directories of ours.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ...errors import StartFailed, UnsupportedOption
from ..container_places import ENTRY, OWN, USER
from ..interface import Mount
from ..mounts import mount_tmpfs

FILES = ENTRY / "files"
WRITABLE = {"/sandbox": "sandbox", "/tmp": "tmp", "/var/tmp": "var-tmp"}  # inside: in the file system


class View:
    """The directory ``entry`` of one command, mounted at ENTRY, and everything beside it.

    ``disk`` is in MiB. Raises StartFailed when the writable file system can't be mounted.
    """

    def __init__(self, entry: Path, disk: int, mounts: Sequence[Mount]) -> None:
        self._entry = entry
        self._space = entry.with_name(f"{entry.name}.space")
        self._places: dict[PurePosixPath, Path] = {}
        for directory in (entry, entry / "files", self._space):
            directory.mkdir(mode=0o755)
        self._mount_space(disk)
        folders = [mount for mount in mounts if mount.source.is_dir()]
        for number, mount in enumerate(mount for mount in mounts if not mount.source.is_dir()):
            self._link(mount, str(number))
        for mount in folders:
            self._make_way(mount.target)
        self._volumes = [*map(volume, self._own(), self._own().values(), [False] * len(WRITABLE))]
        self._volumes += [volume(source, target, True) for target, source in self._places.items()]
        self._volumes += [volume(mount.source, mount.target, mount.read_only) for mount in folders]

    @property
    def volumes(self) -> list[str]:
        """In nitrobox's way of writing."""
        return [*self._volumes, volume(self._entry, ENTRY, True)]

    def _own(self) -> Mapping[Path, PurePosixPath]:
        return {self._space / name: PurePosixPath(inside) for inside, name in WRITABLE.items()}

    def _mount_space(self, disk: int) -> None:
        try:
            mount_tmpfs(self._space, disk)
        except OSError as error:
            raise StartFailed(f"the sandbox's writable file system can't be mounted: {error}") from error
        for name in WRITABLE.values():
            (self._space / name).mkdir()
            (self._space / name).chmod(0o755 if name == "sandbox" else 0o1777)
        for place in map(PurePosixPath, OWN):
            (self._space / "sandbox" / place.name).mkdir()
            os.chown(self._space / "sandbox" / place.name, USER, USER)

    def _link(self, mount: Mount, name: str) -> None:
        """A file of the launcher, as a link at its target."""
        kept = self._entry / "files" / name
        if not mount.read_only and mount.source.is_file():
            raise UnsupportedOption(f"nitrobox can't mount one file writable: mount {mount.source.parent}")
        try:
            os.link(mount.source, kept)
        except OSError:  # on another file system
            if not mount.source.is_file():
                raise StartFailed(
                    f"{mount.source} is on another file system than {kept}: set TMPDIR to one for both"
                ) from None
            shutil.copyfile(mount.source, kept)
            kept.chmod(0o644)
        self._folder(mount.target.parent).joinpath(mount.target.name).symlink_to(FILES / name)

    def _folder(self, target: PurePosixPath) -> Path:
        """The directory of ours that is seen there."""
        for inside, name in WRITABLE.items():
            if PurePosixPath(inside) in (target, *target.parents):
                folder = self._space / name / target.relative_to(inside)
                folder.mkdir(parents=True, exist_ok=True)
                return folder
        for place, folder in self._places.items():
            if place in (target, *target.parents):
                folder = folder / target.relative_to(place)
                folder.mkdir(parents=True, exist_ok=True)
                return folder
        self._places[target] = self._entry.with_name(f"{self._entry.name}.place{len(self._places)}")
        self._places[target].mkdir(mode=0o755)
        return self._places[target]

    def _make_way(self, target: PurePosixPath) -> None:
        """What is read-only needs a directory to mount on."""
        if any(place in target.parents for place in (*self._places, *map(PurePosixPath, WRITABLE))):
            self._folder(target)


def volume(source: Path, target: PurePosixPath, read_only: bool) -> str:
    """One mount in nitrobox's way of writing, which can't quote a colon. Raises UnsupportedOption."""
    for path in (source, target):
        if ":" in str(path):
            raise UnsupportedOption(f"nitrobox can't mount {path}: choose a path without a colon")
    return f"{source}:{target}:{'ro' if read_only else 'rw'}"
