"""The scheduler's side of the supervisor, with a real supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.plugins.supervisor_link import SupervisorLink
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor import run_directories
from metaflow_extensions.sandbox.supervisor.protocol import RunSettings, TaskSettings

from ..relay.parts import settle

TASK = TaskSettings(
    TaskIdentity("Flow", "1", "start", "2", 0), "x", SandboxSpec(), {"SECRET": "hunter2"}, [], {}
)


class Links:
    """Starts links and remembers them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.made: list[SupervisorLink] = []
        self.directories: list[Path] = []

    def start(self, copy_code: Callable[[Path], None] = Path.mkdir) -> SupervisorLink:
        self.made.append(SupervisorLink(self.settings, copy_code))
        return self.made[-1]

    def settings(self, directory: str, control: int) -> RunSettings:
        self.directories.append(Path(directory))
        root = str(self.place)
        paths = [path for path in sys.path if path]
        return RunSettings("Flow", "1", "flow.py", directory, control, paths, "local", root, f"local@{root}")


@pytest.fixture
def links(tmp_path: Path) -> Iterator[Links]:
    made = Links(tmp_path)
    yield made
    for link in made.made:
        link.close()


def supervisor_of(link: SupervisorLink) -> int:
    reaper = link._process.pid
    children = Path(f"/proc/{reaper}/task/{reaper}/children")
    settle(lambda: children.read_text())
    return int(children.read_text())


def test_the_command_line(links: Links) -> None:
    """Guards against a secret in the list of processes, and a shim that starts slowly or finds nothing."""
    link = links.start()
    entrypoint = link.entrypoint(TASK)
    assert entrypoint[:3] == [sys.executable, "-I", "-S"]
    assert Path(entrypoint[3]).name == "shim.py"
    assert Path(entrypoint[4]).is_socket()
    assert entrypoint[5:] == ["1/start/2/0"]
    assert "hunter2" not in " ".join(entrypoint)
    for pid in (link._process.pid, supervisor_of(link)):
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_the_end(links: Links) -> None:
    """Guards against a process, a file or a descriptor that outlives the run."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    link = links.start()
    supervisor, reaper = supervisor_of(link), link._process.pid
    link.close()
    link.close()
    assert not links.directories[0].exists()
    assert not Path(f"/proc/{supervisor}").exists()
    assert not Path(f"/proc/{reaper}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def inherited(pid: int) -> dict[str, tuple[Path, int]]:
    """(target, inode) of each descriptor; those that the process closes meanwhile are its own."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[entry.name] = (entry.readlink(), entry.stat().st_ino)
    return found


def test_no_descriptor_is_inherited(links: Links) -> None:
    """Guards against a supervisor that holds the scheduler's files, or its own lifeline."""
    with tempfile.TemporaryFile() as secret:
        os.set_inheritable(secret.fileno(), True)
        ours = Path(f"/proc/self/fd/{secret.fileno()}").readlink()
        link = links.start()
        lifeline = Path(f"/proc/self/fd/{link._lifeline}").stat().st_ino
        for pid in (link._process.pid, supervisor_of(link)):
            held = inherited(pid)
            assert ours not in [where for where, _ in held.values()]
            # Both ends of a pipe have one inode: there is the reading end, on standard input.
            assert [name for name, (_, inode) in held.items() if inode == lifeline] == ["0"]
    link.close()


@pytest.mark.parametrize("whom", ["supervisor", "reaper", "both"])
def test_a_supervisor_that_was_killed(links: Links, whom: str) -> None:
    """Guards against a run that cannot go on because its supervisor was killed, and what it leaves."""
    link = links.start()
    supervisor, reaper = supervisor_of(link), link._process.pid
    if whom in ("supervisor", "both"):
        os.kill(supervisor, signal.SIGKILL)
    if whom in ("reaper", "both"):
        os.kill(reaper, signal.SIGKILL)
    if whom != "reaper":
        settle(lambda: link._process.poll() is not None and is_over(supervisor))
        assert Path(link.entrypoint(TASK)[4]).is_socket()
        assert len(links.directories) == 2
        assert supervisor_of(link) != supervisor
    link.close()
    assert not any(directory.exists() for directory in links.directories)
    settle(lambda: is_over(supervisor))


def is_over(pid: int) -> bool:
    """Whether a process has ended; whoever inherited it may not have noticed yet."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_scheduler_is_gone(links: Links) -> None:
    """Guards against a supervisor that outlives a killed scheduler."""
    link = links.start()
    supervisor = supervisor_of(link)
    os.close(link._lifeline)
    link._lifeline = -1
    settle(lambda: not links.directories[0].exists())
    settle(lambda: link._process.poll() is not None)
    assert not Path(f"/proc/{supervisor}").exists()


def test_code_that_cannot_be_copied(links: Links) -> None:
    """Guards against a failure on the copying thread that ends the scheduler or is left unsaid."""

    def fail(target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    link = links.start(fail)
    link._copier.join()
    assert link.entrypoint(TASK)
    link.close()


@pytest.mark.parametrize("length", [10, 35, 36, 37, 40, 60, 80, 200])
def test_a_long_directory_for_temporary_files(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against sockets whose paths are too long for the kernel, the task's own one included."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as base:
        place = Path(base, "x" * max(1, length - len(base) - 1))
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        directory = run_directories.make()
        try:
            assert directory.stat().st_mode & 0o777 == 0o700
            task = directory / f"t{2**64 - 1:x}-{2**48 - 1:x}"
            task.mkdir()
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(task / "relay"))
            (task / "relay").unlink()
            task.rmdir()
        finally:
            directory.rmdir()
