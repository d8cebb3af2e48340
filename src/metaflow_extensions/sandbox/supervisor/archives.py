"""Tar archives of what a guest needs, for sandboxes in which nothing can be mounted."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from ..guest.unpack import SIZE
from .inside import BOOTSTRAP, CODE, INSIDE, LIBRARIES, S3_LIBRARIES

if TYPE_CHECKING:
    from tarfile import TarInfo

CHUNK = 4 << 20  # bytes
# Bytecode of other Pythons, and parts of Metaflow that no step imports.
LEFT_OUT = ("tutorials", "v3_5", "v3_6", "v3_7")
# Of this extension, what the launcher alone needs.
LAUNCHERS = tuple(
    f"{LIBRARIES}/metaflow_extensions/sandbox/{part}" for part in ("backends", "supervisor", "testing")
)
BYTECODE = f".{sys.implementation.cache_tag}.pyc"


class Archives:
    """The archives that the tasks of a run share; each is made when it is first needed."""

    def __init__(self, directory: Path, libraries: Mapping[str, str]) -> None:
        self._directory = directory
        self._libraries = libraries
        self._making = threading.Lock()

    def of_run(self, code: Path, *, hosted: bool, s3: str = "", compressed: bool = False) -> Path:
        """The guest and the flow's code; unless ``hosted``, Metaflow and its extensions as well.

        ``s3`` is a directory with boto3 that goes along. Compressed it is a third as large, and the guest
        takes 40 ms longer: for who is far away.
        """
        # As below: it takes as long to import as everything else here, and most runs mount.
        import tarfile

        name = f"{'hosted' if hosted else 'whole'}{'-s3' if s3 else ''}"
        path = self._directory / f"{name}.{'tar.z' if compressed else 'tar'}"
        with self._making:
            if not path.exists():
                draft = path.with_suffix(".draft")
                with (
                    draft.open("wb") as file,
                    deflating(file) if compressed else contextlib.nullcontext(file) as target,
                    tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as archive,
                ):
                    archive.add(BOOTSTRAP.parent, "guest", filter=_wanted)
                    archive.add(code, CODE, filter=_anonymous)
                    for name, source in {} if hosted else self._libraries.items():
                        archive.add(source, f"{LIBRARIES}/{name}", filter=_wanted)
                    if s3:
                        archive.add(s3, S3_LIBRARIES, filter=_anonymous)
                draft.rename(path)
        return path


@contextlib.contextmanager
def deflating(target: BinaryIO) -> Iterator[BinaryIO]:
    """What is written to it reaches ``target`` compressed, in zlib's own format."""
    deflate = zlib.compressobj()

    class Deflating(io.RawIOBase):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            target.write(deflate.compress(data))
            return len(data)

    yield cast("BinaryIO", Deflating())
    target.write(deflate.flush())


def task_archive(files: Mapping[str, Path], directory: Path) -> Path:
    """An archive of one task's own files, by their names inside."""
    import tarfile

    path = directory / "task.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, source in files.items():
            archive.add(source, name, filter=_anonymous)
    return path


def pack(environment: Path, target: Path, place: PurePosixPath) -> None:
    """Write a compressed archive of a step's packages, which are at ``place`` inside."""
    import tarfile

    name = str(place.relative_to(INSIDE)) if INSIDE in place.parents else str(place)
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:

        def named(member: TarInfo) -> TarInfo:
            # An absolute path, which archives have no leading slash of unless it is put there.
            member.name = name + member.name[1:]
            return _anonymous(member)

        archive.add(environment, "e", filter=named)


def framed(*archives: Path) -> Iterator[bytes]:
    """Each archive behind its length, in pieces that are no smaller than need be; a length of 0 ends them."""
    piece = b""
    for archive in archives:
        piece += SIZE.pack(archive.stat().st_size)
        with archive.open("rb") as source:
            while chunk := source.read(CHUNK - len(piece)):
                piece += chunk
                if len(piece) == CHUNK:
                    yield piece
                    piece = b""
    yield piece + SIZE.pack(0)


def _anonymous(member: TarInfo) -> TarInfo:
    """Without the launcher's users."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _wanted(member: TarInfo) -> TarInfo | None:
    name = Path(member.name).name
    if (
        name in LEFT_OUT
        or member.name in LAUNCHERS
        or (name.endswith(".pyc") and not name.endswith(BYTECODE))
    ):
        return None
    return _anonymous(member)
