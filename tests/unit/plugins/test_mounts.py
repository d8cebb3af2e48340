"""What may be mounted and uploaded: nothing that sandboxes are kept apart by."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends.interface import Mount
from metaflow_extensions.sandbox.backends.local_state import base_directory
from metaflow_extensions.sandbox.errors import UnsupportedOption
from metaflow_extensions.sandbox.plugins.mounts import as_mounts, check_mounts, parse_uploads
from metaflow_extensions.sandbox.supervisor.protocol import Upload

INSIDE = PurePosixPath("/mnt/data")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a flow, a datastore and data in it; the sandboxes' state is elsewhere."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name in ("flow/.metaflow", "data/out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "file").write_text("content")
    return tmp_path


def check(place: Path, *mounts: Mount) -> None:
    flow = place / "flow"
    check_mounts(mounts, flow, flow / ".metaflow", [place / "cache"])


def test_places_of_the_users_own_are_shown(place: Path) -> None:
    """Guards against a refusal of what mounts are for."""
    entries = [
        {"local": str(place / "data"), "remote": "/mnt/data", "mode": "ro"},
        {"local": str(place / "data" / "out"), "remote": "/mnt/out", "mode": "rw"},
        {"local": str(place / "flow"), "remote": "/mnt/flow", "mode": "ro"},
    ]
    mounts = as_mounts(entries)
    assert mounts[1] == Mount(place / "data" / "out", PurePosixPath("/mnt/out"), read_only=False)
    check(place, *mounts)


def test_doubtful_sources_are_refused(place: Path) -> None:
    """Guards links to, directories around, and directories inside what a sandbox must not see or change."""
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
    (place / "cache" / "environments").mkdir(parents=True)
    (place / "tmp" / "metaflow-sandbox-run-1").mkdir()
    (place / "state").symlink_to(base_directory())
    (place / "loop").symlink_to(place / "loop")
    for source in (
        *("data", ".", "~nobody-there/x"),
        *(place / name for name in ("gone", "pipe", "socket", "loop", "state", "tmp", "cache")),
        place / "tmp" / "metaflow-sandbox-run-1",
        place / "cache" / "environments",
        *map(Path, ("/", "/proc/self", "/dev/null", "/sys")),
    ):
        with pytest.raises(UnsupportedOption, match=r"mounts="):
            check(place, Mount(Path(source), INSIDE))


@pytest.mark.parametrize("source", ["flow", ".", "flow/.metaflow"])
def test_what_later_steps_trust_is_not_writable(place: Path, source: str) -> None:
    """Guards the flow's code and the datastore, which are used outside of sandboxes."""
    with pytest.raises(UnsupportedOption, match=r"leave out rw|all sandboxes"):
        check(place, Mount(place / source, INSIDE, read_only=False))


@pytest.mark.parametrize(
    "target", ["data", "/mnt/../run", "/run", "/", "/run/metaflow-sandbox", "/run/metaflow-sandbox/code/x"]
)
def test_sandboxes_own_places_are_kept(place: Path, target: str) -> None:
    """Guards the guest, the code and the relay from being covered."""
    with pytest.raises(UnsupportedOption, match=r"inside"):
        check(place, Mount(place / "data", PurePosixPath(target)))


def test_uploads_are_read(place: Path) -> None:
    """Guards the setting's form, and what its modes come to."""
    file = place / "data" / "file"
    text = f"""[{{"local": "{file}", "remote": "/opt/a"}},
               {{"local": "{file}", "remote": "/opt/b", "mode": "0755"}},
               {{"local": "{file}", "remote": "/opt/c", "mode": "600"}}]"""
    assert parse_uploads(text) == [
        Upload(file, PurePosixPath("/opt/a"), None),
        Upload(file, PurePosixPath("/opt/b"), True),
        Upload(file, PurePosixPath("/opt/c"), False),
    ]
    assert parse_uploads(None) == []


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "{}",
        "[1]",
        '[{"local": "/etc/hostname"}]',
        '[{"local": "/etc/hostname", "remote": 1}]',
        '[{"local": "/etc/hostname", "remote": "/x", "mode": "4755"}]',
        '[{"local": "/etc/hostname", "remote": "/x", "mode": 755}]',
        '[{"local": "/etc/hostname", "remote": "/x", "more": 1}]',
        '[{"local": "/etc", "remote": "/x"}]',
        '[{"local": "hostname", "remote": "/x"}]',
        '[{"local": "/etc/hostname", "remote": "/run/metaflow-sandbox/relay"}]',
    ],
)
def test_what_cannot_be_uploaded(place: Path, text: str) -> None:
    """Guards against a traceback, or a guess, where the setting makes no sense."""
    with pytest.raises(UnsupportedOption, match="METAFLOW_SANDBOX_UPLOADS"):
        parse_uploads(text)
