"""What comes out of the sandbox that installs: plain files below one directory, and no more than may be."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed
from metaflow_extensions.sandbox.packages.receive import receive


def stream(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """A tar stream of (name, type, link or content)."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o777
            if kind == tarfile.REGTYPE:
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
            else:
                member.linkname = text
                archive.addfile(member)
    return io.BytesIO(target.getvalue())


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE


def test_files_arrive(tmp_path: Path) -> None:
    """Guards what every environment is made of, readable by whoever runs the step."""
    receive(stream(("bin/python3", LINK, "/usr/bin/python3"), ("lib/a/b.py", FILE, "x")), tmp_path, 100)
    assert (tmp_path / "lib/a/b.py").read_text() == "x"
    assert (tmp_path / "bin/python3").readlink() == Path("/usr/bin/python3")
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*.py")} == {"0o755"}


@pytest.mark.parametrize(
    "members",
    [
        [("../x", FILE, "x")],
        [("/x", FILE, "x")],
        [("a/../../x", FILE, "x")],
        [("a//x", FILE, "x")],
        [("a", LINK, "/etc")],
        [("a", tarfile.LNKTYPE, "/etc/passwd")],
        [("a", tarfile.FIFOTYPE, "")],
        [("a", tarfile.CHRTYPE, "")],
        [("bin/python3", LINK, ".."), ("bin/python3/x", FILE, "x")],
    ],
)
def test_nothing_leads_out(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    """Guards the launcher's files against a sandbox that is not ours any more."""
    (tmp_path / "target").mkdir()
    with pytest.raises(PackagesFailed):
        receive(stream(*members), tmp_path / "target", 100)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_size_is_bounded(tmp_path: Path) -> None:
    """Guards the disk."""
    with pytest.raises(PackagesFailed, match="METAFLOW_SANDBOX_CACHE_SIZE"):
        receive(stream(("a", FILE, "x" * 60), ("b", FILE, "x" * 60)), tmp_path, 100)


def test_an_early_end_is_told(tmp_path: Path) -> None:
    """Guards against half an environment, when the sandbox goes away."""
    whole = stream(("a", FILE, "x" * 5000)).getvalue()
    with pytest.raises(tarfile.TarError):
        receive(io.BytesIO(whole[:1000]), tmp_path, 10_000)
