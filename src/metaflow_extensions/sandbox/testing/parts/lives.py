"""Lives of sandboxes: closed once and for all, listed, destroyed, and apart from each other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ...backends.interface import Backend, Sandbox, SandboxInfo
from ...errors import SandboxError, SandboxLost, StartFailed
from . import launcher
from .base import ContractBase, Result
from .leaks import descendants

_SLEEP = "import os, time; os.write(1, b'up'); time.sleep(600)"
_PLACES = """
import json, os, sys, time
places = [os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"]]
"""
_WRITE = (
    _PLACES
    + """
for place in places:
    open(os.path.join(place, sys.argv[1]), "w").close()
print(json.dumps(places), flush=True)
time.sleep(600)
"""
)


class LivesContract(ContractBase):
    """Nothing stays, nothing is shared, nothing is ended by mistake."""

    def test_check_agrees_with_open(self, backend: Backend) -> None:
        """A check that fails where sandboxes work keeps users from them."""
        backend.check()
        sandbox = backend.open(self.make_spec())
        result = self.run(sandbox, "import os; os.write(1, b'works')")
        self.within(sandbox.close)
        assert result == Result(0, b"works", b"")

    def test_close_is_idempotent(self, backend: Backend) -> None:
        """Closing again, by a context manager and by hand, is normal."""
        sandbox = backend.open(self.make_spec())
        assert self.run(sandbox, "").code == 0
        self.within(sandbox.close)
        self.within(sandbox.close)
        assert not list(backend.list({"contract": self.label}))

    def test_close_without_a_command(self, backend: Backend) -> None:
        """A sandbox that ran nothing must go like any other."""
        self.within(backend.open(self.make_spec()).close)
        assert not list(backend.list({"contract": self.label}))

    def test_close_from_two_threads(self, backend: Backend) -> None:
        """A signal's handler and the end of a task close at the same time."""
        sandbox = backend.open(self.make_spec())
        self.follow(sandbox.start(self.command(_SLEEP))).until(b"up")
        closing = [self.background(sandbox.close) for _ in range(4)]
        assert [task.result() for task in closing] == [None] * 4
        assert not list(backend.list({"contract": self.label}))

    def test_close_under_a_running_command_frees_its_readers(self, backend: Backend) -> None:
        """A thread in output() or wait() must not hang when the sandbox goes."""
        sandbox = backend.open(self.make_spec())
        process = sandbox.start(self.command(_SLEEP))
        reader = self.follow(process)
        reader.until(b"up")
        reading, waiting = self.background(reader.rest), self.background(process.wait)
        time.sleep(0.1)
        self.within(sandbox.close)
        for task in (reading, waiting):
            try:
                answer = task.result()
            except SandboxLost:
                continue
            code = answer.code if isinstance(answer, Result) else answer
            assert code > 128, "a command that was ended from outside looks as if it had ended itself"

    def test_close_removes_what_its_owner_locked(self, sandbox: Sandbox) -> None:
        """A directory without permissions must not keep the rest from being removed."""
        code = """
        import os
        os.makedirs("a/b/c")
        open("a/b/file", "w").close()
        os.chmod("a/b", 0)
        os.chmod("a", 0)
        """
        assert self.run(sandbox, code) == Result(0, b"", b"")

    def test_after_close_nothing_starts(self, backend: Backend, tmp_path: Path) -> None:
        """A command started in what is gone must not run elsewhere."""
        sandbox = backend.open(self.make_spec())
        self.within(sandbox.close)
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises((StartFailed, SandboxLost)):
            sandbox.start(self.command(""))
        with pytest.raises(SandboxError):
            sandbox.put(tmp_path / "file", PurePosixPath("/tmp/contract/file"))

    def test_kill_and_wait_after_close(self, backend: Backend) -> None:
        """A deadline that passes after the end must be harmless."""
        sandbox = backend.open(self.make_spec())
        process = sandbox.start(self.command("import os; os._exit(3)"))
        assert self.collect(process).code == 3
        self.within(sandbox.close)
        self.within(process.kill)
        assert self.within(process.wait) == 3

    def test_ended_commands_leave_no_zombies(self, backend: Backend) -> None:
        """A child that is never waited for keeps its process id, run after run."""
        before = {pid for pid, _ in descendants()}
        sandbox = backend.open(self.make_spec())
        for _ in range(3):
            assert self.run(sandbox, "").code == 0
        deadline = time.monotonic() + 5
        while (zombies := self._zombies(before)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.within(sandbox.close)
        assert zombies == []

    def test_ids_are_unique_and_printable(self, backend: Backend) -> None:
        """Ids go into logs, labels and command lines."""
        sandboxes = [backend.open(self.make_spec()) for _ in range(3)]
        ids = [sandbox.id for sandbox in sandboxes]
        for sandbox in sandboxes:
            self.within(sandbox.close)
        assert len(set(ids)) == 3
        assert all(
            0 < len(name) <= 64 and name.isascii() and name.isprintable() and " " not in name for name in ids
        )

    def test_stats_are_numbers_with_known_names(self, sandbox: Sandbox) -> None:
        """A negative, missing or differently named measurement breaks every report."""
        assert self.run(sandbox, "").code == 0
        stats = sandbox.stats()
        assert set(stats) <= {"peak_memory", "cpu_time"}
        assert all(value >= 0 for value in stats.values())

    def test_list_filters_by_labels(self, backend: Backend) -> None:
        """Cleaning up by label must find all of a run's sandboxes, and no others."""
        labels = [{"contract": self.label, "step": step, "odd": "a b=c"} for step in ("one", "two")]
        started = time.time()
        sandboxes = [backend.open(self.make_spec(labels=its)) for its in labels]
        everything = {info.id: info for info in backend.list({"contract": self.label})}
        second = [info.id for info in backend.list({"contract": self.label, "step": "two"})]
        neither = list(backend.list({"contract": self.label, "step": "three"}))
        for sandbox in sandboxes:
            self.within(sandbox.close)
        assert set(everything) == {sandbox.id for sandbox in sandboxes}
        assert labels[0].items() <= everything[sandboxes[0].id].labels.items()
        # Providers' clocks may be off by minutes, but not count in other units.
        assert all(abs(info.created - started) < 3600 for info in everything.values())
        assert (second, neither) == ([sandboxes[1].id], [])
        assert self._listed(backend) == []

    def test_destroy_by_another_backend_object(self, backend: Backend) -> None:
        """Cleaning up has only the id, not the object that opened the sandbox."""
        sandbox = backend.open(self.make_spec())
        process = sandbox.start(self.command(_SLEEP))
        reader = self.follow(process)
        reader.until(b"up")
        other = type(backend)()
        assert [info.id for info in self._listed(other)] == [sandbox.id]
        self.within(lambda: other.destroy(sandbox.id))
        self._assert_gone(backend, sandbox, lambda: reader.rest().code)

    def test_destroy_by_another_process(self, backend: Backend) -> None:
        """Cleaning up runs in a process that never saw the sandbox made."""
        sandbox = backend.open(self.make_spec())
        process = sandbox.start(self.command(_SLEEP))
        reader = self.follow(process)
        reader.until(b"up")
        with self._launcher(backend, destroy=sandbox.id) as other:
            assert other.wait(self.patience) == 0
        self._assert_gone(backend, sandbox, lambda: reader.rest().code)

    def test_sandbox_of_a_killed_launcher_can_be_destroyed(self, backend: Backend) -> None:
        """A launcher that is killed cleans up nothing: what it left must be found and ended by id."""
        spec = dataclasses.asdict(self.make_spec())
        argv = list(self.command(_SLEEP).argv)
        with self._launcher(backend, spec=spec, argv=argv) as other:
            assert other.stdout is not None
            sandbox_id = self.within(other.stdout.readline).decode().strip()
            other.kill()
        assert sandbox_id
        self.within(lambda: backend.destroy(sandbox_id))
        assert self._listed(backend) == []

    def test_destroy_twice_and_concurrently(self, backend: Backend) -> None:
        """Two cleanings at once must both succeed."""
        sandbox = backend.open(self.make_spec())
        destroying = [self.background(lambda: backend.destroy(sandbox.id)) for _ in range(4)]
        assert [task.result() for task in destroying] == [None] * 4
        self.within(lambda: backend.destroy(sandbox.id))
        self.within(sandbox.close)
        assert self._listed(backend) == []

    @pytest.mark.parametrize(
        "name", ["no-such-sandbox", "", ".", "..", "../..", "*", "/", "a b", "-a", "x" * 300]
    )
    def test_destroy_of_what_is_not_there_touches_nothing(
        self, sandbox: Sandbox, backend: Backend, name: str
    ) -> None:
        """An id that is a path, a pattern or an option must not reach another sandbox or file."""
        process = sandbox.start(self.command("import os, time; time.sleep(1); os._exit(7)"))
        self.within(lambda: backend.destroy(name))
        self.within(lambda: backend.destroy(sandbox.id[:-1]))
        assert self.collect(process).code == 7
        assert [info.id for info in self._listed(backend)] == [sandbox.id]
        assert self.run(sandbox, "import os; os.write(1, b'alive')") == Result(0, b"alive", b"")

    def test_directories_are_each_sandboxs_own(self, backend: Backend) -> None:
        """Two tasks that share a working directory or a home overwrite each other's files."""
        first, second = backend.open(self.make_spec()), backend.open(self.make_spec())
        look = "print(json.dumps([place for place in places if os.path.exists(os.path.join(place, 'mine'))]))"
        process = first.start(self.command(_WRITE, "mine"))
        self.follow(process).until(b"\n")
        found = self.run_json(second, _PLACES + look)
        for sandbox in (first, second):
            self.within(sandbox.close)
        assert found == []

    def test_files_of_another_sandbox_are_not_seen(self, backend: Backend) -> None:
        """A path of one task must not lead another to its files."""
        first, second = backend.open(self.make_spec()), backend.open(self.make_spec())
        name = f"mine-{self.label}"
        process = first.start(self.command(_WRITE, name))
        reader = self.follow(process)
        reader.until(b"\n")
        paths = [f"{place}/{name}" for place in json.loads(reader.stdout)]
        look = (
            "import json, os, sys; print(json.dumps([path for path in sys.argv[1:] if os.path.exists(path)]))"
        )
        found = self.run_json(second, look, *paths)
        for sandbox in (first, second):
            self.within(sandbox.close)
        assert found == []

    def test_sixteen_at_once(self, backend: Backend) -> None:
        """Names, directories or locks shared between sandboxes break when many are made together."""

        def live(number: int) -> Result:
            sandbox = backend.open(self.make_spec())
            try:
                return self.run(
                    sandbox, "import os, sys; os.write(1, sys.argv[1].encode() * 9999)", str(number)
                )
            finally:
                sandbox.close()

        tasks = [self.background(lambda number=number: live(number)) for number in range(16)]  # type: ignore[misc]
        assert [task.result() for task in tasks] == [
            Result(0, b"%d" % number * 9999, b"") for number in range(16)
        ]

    def test_sandbox_outlives_the_thread_that_opened_it(self, backend: Backend) -> None:
        """A parent-death signal is sent when the parent's thread ends, not its process."""
        sandbox = self.within(lambda: backend.open(self.make_spec()))
        process = self.within(
            lambda: sandbox.start(self.command("import os, time; time.sleep(1); os._exit(7)"))
        )
        code = self.collect(process).code
        self.within(sandbox.close)
        assert code == 7

    def _listed(self, backend: Backend) -> list[SandboxInfo]:
        return list(backend.list({"contract": self.label}))

    def _zombies(self, before: set[int]) -> list[int]:
        return [pid for pid, state in descendants() if state == "Z" and pid not in before]

    def _launcher(self, backend: Backend, **request: Any) -> subprocess.Popen[bytes]:
        path = f"{type(backend).__module__}:{type(backend).__qualname__}"
        text = json.dumps({"backend": path, **request}, default=str)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen([sys.executable, launcher.__file__, text], env=env, stdout=subprocess.PIPE)

    def _assert_gone(self, backend: Backend, sandbox: Sandbox, code: Any) -> None:
        """Check that what ran was ended, that nothing is listed, and that the owner can still close."""
        with contextlib.suppress(SandboxLost):
            assert self.within(code) > 128
        with pytest.raises((StartFailed, SandboxLost)):
            sandbox.start(self.command(""))
        assert self._listed(backend) == []
        self.within(sandbox.close)
