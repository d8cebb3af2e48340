"""What a guest makes of the launcher's archives, against tarfile."""

from __future__ import annotations

import importlib.util
import io
import os
import py_compile
import stat
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.guest import unpack
from metaflow_extensions.sandbox.guest.unpack import SIZE, extract


def packed(source: Path) -> bytes:
    """All of a directory, in the format of the launcher's archives."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(source, "code")
    return written.getvalue()


def seen(place: Path) -> dict[str, tuple[object, ...]]:
    """Everything below: its kind and mode, its content or target, its time."""
    found: dict[str, tuple[object, ...]] = {}
    for path in place.rglob("*"):
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else None
        age = None
        if path.is_file() and not path.is_symlink():
            content, age = path.read_bytes(), int(status.st_mtime)
        found[str(path.relative_to(place))] = (stat.filemode(status.st_mode), content, age)
    return found


def test_files_come_out_as_tarfile_would_make_them(tmp_path: Path) -> None:
    """Guards every kind of entry that a code package may have, its content, mode and time."""
    source = tmp_path / "source"
    deep = source / ("d" * 60) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / ("ü" * 60)).write_bytes(b"long name")
    (source / "empty").touch()
    (source / "block").write_bytes(b"x" * 512)
    (source / "large").write_bytes(os.urandom(3_000_001))
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    (source / "private").write_text("x")
    (source / "private").chmod(0o400)
    (source / "again").hardlink_to(source / "block")
    (source / "link").symlink_to("tool")
    (source / "far").symlink_to("t" * 150)
    os.utime(source / "block", (5, 1_000_000_000))
    data = packed(source)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for place in (ours, theirs):
        place.mkdir()
    extract(data, str(ours))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # type: ignore[assignment]
        archive.extractall(theirs)
    assert seen(ours) == seen(theirs)
    assert len(seen(ours)) == 12


def test_bytecode_stays_valid(tmp_path: Path) -> None:
    """Guards against a guest that compiles all of Metaflow for each task."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "module.py").write_text("x = 1\n")
    os.utime(source / "module.py", (5, 1_000_000_000))
    py_compile.compile(str(source / "module.py"), doraise=True)
    extract(packed(source), str(tmp_path))
    module = tmp_path / "code" / "module.py"
    bytecode = Path(importlib.util.cache_from_source(str(module))).read_bytes()
    assert int.from_bytes(bytecode[8:12], "little") == int(module.stat().st_mtime)


@pytest.mark.parametrize("compress", [bytes, zlib.compress], ids=["as it is", "compressed"])
def test_archives_of_stdin_are_unpacked(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """Guards what far sandboxes get: the same archive, a third as large."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "module.py").write_text("x = 1\n" * 1000)
    (source / "stdio.py").write_text(
        "import os\ndef main(words, relay): os.write(1, open(words[0], 'rb').read()); return 7\n"
    )
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(source, "guest")
    data = compress(written.getvalue())
    done = subprocess.run(
        [
            sys.executable,
            *["-I", "-S", "-c", Path(unpack.__file__).read_text()],
            "/run/metaflow-sandbox/guest/module.py",
        ],
        input=SIZE.pack(len(data)) + data + SIZE.pack(0),
        env={"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, b"x = 1\n" * 1000)


def test_what_no_code_package_holds_is_refused(tmp_path: Path) -> None:
    """Guards against an entry that is left out without a word."""
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    with pytest.raises(SystemExit, match="neither a file nor a link"):
        extract(packed(source), str(tmp_path))
