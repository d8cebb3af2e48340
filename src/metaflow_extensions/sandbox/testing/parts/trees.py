"""Killing: the whole tree, at any time, from any thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from ...backends.interface import Backend, Feature, Mount, Sandbox
from ...errors import SandboxError
from .base import ContractBase, Result

KILLED = 128 + 9
_BEATS = PurePosixPath("/mnt/beats")

# A child in a session of its own and its child write heartbeats; all hold the command's streams.
_FAMILY = """
import os, sys, time
def beat(name):
    while True:
        with open(os.path.join(place, name), "a") as file:
            file.write(".")
        time.sleep(0.02)
place = sys.argv[2] if len(sys.argv) > 2 else os.getcwd()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        beat("grandchild")
    beat("child")
while not all(os.path.exists(os.path.join(place, name)) for name in ("child", "grandchild")):
    time.sleep(0.01)
os.write(1, b"<%s>" % os.fsencode(place))
if sys.argv[1] == "stay":
    time.sleep(600)
os._exit(5)
"""


class TreesContract(ContractBase):
    """A kill reaches everything, and nothing outlives its command."""

    def test_kill_ends_children_and_grandchildren(self, backend: Backend, tmp_path: Path) -> None:
        """Killing the command alone leaves its children at work."""
        sandbox = backend.open(self.make_spec(**self._mounts(tmp_path)))
        try:
            process = sandbox.start(self.command(_FAMILY, "stay", *self._place()))
            reader = self.follow(process)
            reader.until(b">")
            self.within(process.kill)
            result = reader.rest()
            assert result.code == KILLED
            self._assert_no_beats(sandbox, result, tmp_path)
        finally:
            self.within(sandbox.close)

    def test_background_children_end_with_the_command(self, backend: Backend, tmp_path: Path) -> None:
        """A grandchild that holds the pipe must not keep output() open, nor outlive the command."""
        sandbox = backend.open(self.make_spec(**self._mounts(tmp_path)))
        try:
            result = self.run(sandbox, _FAMILY, "leave", *self._place())
            assert (result.code, result.stdout[-1:]) == (5, b">")
            self._assert_no_beats(sandbox, result, tmp_path)
        finally:
            self.within(sandbox.close)

    def test_close_ends_the_tree(self, backend: Backend, tmp_path: Path) -> None:
        """Closing must not leave anything at work; processes are found by the look for leaks."""
        sandbox = backend.open(self.make_spec(**self._mounts(tmp_path)))
        process = sandbox.start(self.command(_FAMILY, "stay", *self._place()))
        self.follow(process).until(b">")
        self.within(sandbox.close)
        if Feature.MOUNT in self.features:
            self._assert_still(lambda: _sizes(tmp_path))
        assert not list(backend.list({"contract": self.label}))

    def test_kill_before_reading_ends_the_output(self, sandbox: Sandbox) -> None:
        """A reader that starts after the kill must not wait for ever."""
        process = sandbox.start(self.command("import time; time.sleep(600)"))
        self.within(process.kill)
        assert self.collect(process) == Result(KILLED, b"", b"")

    def test_kill_is_idempotent(self, sandbox: Sandbox) -> None:
        """A second kill, by a deadline or a signal that came meanwhile, is normal."""
        process = sandbox.start(self.command("import time; time.sleep(600)"))
        self.within(process.kill)
        self.within(process.kill)
        assert self.collect(process).code == KILLED
        self.within(process.kill)
        assert self.within(process.wait) == KILLED

    def test_kill_from_two_threads(self, sandbox: Sandbox) -> None:
        """A deadline and a signal at the same time must not race into an error."""
        process = sandbox.start(self.command("import time; time.sleep(600)"))
        killing = [self.background(process.kill) for _ in range(4)]
        assert [task.result() for task in killing] == [None] * 4
        assert self.collect(process).code == KILLED

    def test_kill_after_the_end_changes_nothing(self, sandbox: Sandbox) -> None:
        """A late kill must not rewrite how the command ended."""
        process = sandbox.start(self.command("import os; os.write(1, b'x'); os._exit(4)"))
        assert self.within(process.wait) == 4
        self.within(process.kill)
        assert self.collect(process) == Result(4, b"x", b"")

    def test_kill_frees_a_blocked_reader_and_waiter(self, sandbox: Sandbox) -> None:
        """Threads in output() and wait() must learn of a kill by a third."""
        process = sandbox.start(self.command("import os, time; os.write(1, b'up'); time.sleep(600)"))
        reader = self.follow(process)
        reader.until(b"up")
        reading, waiting = self.background(reader.rest), self.background(process.wait)
        time.sleep(0.1)
        self.within(process.kill)
        assert reading.result() == Result(KILLED, b"up", b"")
        assert waiting.result() == KILLED

    def test_kill_ends_a_flood(self, sandbox: Sandbox) -> None:
        """A command blocked on a full pipe must die, whatever is left in the pipe."""
        process = sandbox.start(self.command("import os\nwhile True: os.write(1, b'x' * 65536)"))
        self.follow(process).chunk()
        self.within(process.kill)
        assert self.within(process.wait) == KILLED

    def test_kill_beats_ignored_signals(self, sandbox: Sandbox) -> None:
        """A polite signal can be ignored; a kill can't."""
        code = """
        import os, signal, time
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        os.write(1, b"deaf")
        time.sleep(600)
        """
        process = sandbox.start(self.command(code))
        reader = self.follow(process)
        reader.until(b"deaf")
        self.within(process.kill)
        assert reader.rest() == Result(KILLED, b"deaf", b"")

    def test_sandbox_works_after_a_kill(self, sandbox: Sandbox) -> None:
        """Killing a command ends the command, not its sandbox."""
        process = sandbox.start(self.command("import time; time.sleep(600)"))
        self.within(process.kill)
        assert self.collect(process).code == KILLED
        assert self.run(sandbox, "import os; os.write(1, b'next')") == Result(0, b"next", b"")

    def _mounts(self, place: Path) -> dict[str, Any]:
        return {"mounts": [Mount(place, _BEATS, read_only=False)]} if Feature.MOUNT in self.features else {}

    def _place(self) -> list[str]:
        return [str(_BEATS)] if Feature.MOUNT in self.features else []

    def _assert_no_beats(self, sandbox: Sandbox, result: Result, place: Path) -> None:
        """Look for heartbeats from the host: in a mount, or by copying the files out twice."""
        if Feature.MOUNT in self.features:
            self._assert_still(lambda: _sizes(place))
        elif Feature.GET in self.features:
            inside = PurePosixPath(result.stdout.decode().strip("<>"))

            def fetch() -> list[int]:
                for name in ("child", "grandchild"):
                    sandbox.get(inside / name, place / name)
                return _sizes(place)

            self._assert_still(fetch)

    def _assert_still(self, sizes: Callable[[], list[int]]) -> None:
        before = sizes()
        time.sleep(0.3)  # some fifteen heartbeats
        try:
            assert sizes() == before, "heartbeats go on"
        except SandboxError as error:
            raise AssertionError("the heartbeats could not be read") from error


def _sizes(place: Path) -> list[int]:
    return [(place / name).stat().st_size for name in ("child", "grandchild")]
