"""Files below a directory that others write to."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.errors import UnsupportedOption
from metaflow_extensions.sandbox.testing.private_files import checked, copy_in, copy_out, remove_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a link out of it, and a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside")
    return root


@pytest.mark.parametrize("path", ["a", "", "../a", "/a/../b", "/a\0b"])
def test_doubtful_paths_are_refused(path: str) -> None:
    """A relative or climbing path leaves the root."""
    with pytest.raises(UnsupportedOption):
        checked(PurePosixPath(path))


def test_links_are_followed_neither_in_nor_out(root: Path, tmp_path: Path) -> None:
    """A link in the middle or at the end of a path leads anywhere on the host."""
    source = tmp_path / "source"
    source.write_text("new")
    (root / "deep" / "end").symlink_to(tmp_path / "outside" / "secret")
    with pytest.raises(PermissionError):
        copy_in(source, root, PurePosixPath("link/secret"))
    for path in ("link/secret", "deep/end"):
        with pytest.raises(PermissionError):
            copy_out(root, PurePosixPath(path), tmp_path / "copy")
    copy_in(source, root, PurePosixPath("deep/end"))
    assert (root / "deep" / "end").read_text() == "new"
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert not (tmp_path / "copy").exists()


def test_a_fifo_in_the_way_does_not_block(root: Path, tmp_path: Path) -> None:
    """Opening a FIFO waits for a peer that never comes."""
    source = tmp_path / "source"
    source.write_text("new")
    os.mkfifo(root / "fifo")
    with pytest.raises(PermissionError):
        copy_out(root, PurePosixPath("fifo"), tmp_path / "copy")
    copy_in(source, root, PurePosixPath("fifo"))
    assert (root / "fifo").read_text() == "new"


def test_removal_keeps_to_the_tree(root: Path, tmp_path: Path) -> None:
    """Neither a locked directory nor a link may stop or misguide the removal, and a second one is nothing."""
    (root / "locked" / "below").mkdir(parents=True)
    (root / "locked" / "link").symlink_to(tmp_path / "outside")
    (root / "locked").chmod(0)
    mode = (tmp_path / "outside").stat().st_mode
    remove_tree(root)
    remove_tree(root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert (tmp_path / "outside").stat().st_mode == mode
