"""A flow that is still running: its processes by role, and what is left of it once it is over.

Everything of a run carries the path of its own directory: as an argument (the socket, the datastore's
root) or in its environment (TMPDIR). Sandboxes are in the TMPDIR that the run was given, so runs of
other tests at the same time are never mistaken for this one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .harness import TIMEOUT, FlowRun, flow_environment, place_flow

GONE_WITHIN = 5.0  # seconds until nothing is left of a run; the promise of the project
POLL = 0.02  # seconds


@dataclass(frozen=True)
class Process:
    """A process of the run, as /proc showed it."""

    pid: int
    parent: int
    argv: tuple[str, ...]

    @property
    def program(self) -> str:
        """The name of its program."""
        return Path(self.argv[0]).name if self.argv else ""

    def runs(self, script: str) -> bool:
        """Whether it is a Python process whose script is that one."""
        return self.program.startswith("python") and any(
            word.endswith(script) for word in self.argv[1 : 1 + 4] if not word.startswith("-")
        )


class LiveFlow:
    """One ``python FLOW …`` in a session of its own, as a terminal starts it."""

    def __init__(
        self,
        flow: Path,
        root: Path,
        arguments: tuple[str, ...],
        env: Mapping[str, str],
        cwd: Path | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """``prefix`` goes before the command, ``cwd`` is otherwise the flow's own directory."""
        self.root = root
        cwd = cwd or flow.parent
        self.directory = flow.parent
        self.tmp = root / "tmp"
        self.tmp.mkdir(exist_ok=True)
        # XDG_RUNTIME_DIR would take the place of TMPDIR for the sandboxes' records.
        environment = {**flow_environment(), "TMPDIR": str(self.tmp), "XDG_RUNTIME_DIR": "", **env}
        self._mounts = mounts()  # a test's own
        self._log = root / f"output-{time.monotonic_ns()}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, os.path.relpath(flow, cwd), *arguments],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # --- what it says -------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """What it has printed so far, both streams."""
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until the text was printed that often."""
        self.until(lambda: self.output.count(text) >= times, f"{times} times {text!r}")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition while the flow runs."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            over = self.process.poll() is not None
            assert not (over and not condition()), f"it ended without {what}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.output}"
            time.sleep(POLL)

    def finish(self) -> FlowRun:
        """Wait for the end."""
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs:\n{self.output}") from None
        return FlowRun(self.process.returncode, self.output, self.directory)

    # --- its processes ------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Every process that belongs to it, the scheduler included."""
        return [process for process in all_processes() if self._owns(process)]

    def _owns(self, process: Process) -> bool:
        marker = str(self.root)
        if process.pid == os.getpid():
            return False
        if any(marker in word for word in process.argv):
            return True
        with contextlib.suppress(OSError):  # another user's, or gone
            return f"TMPDIR={self.tmp}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
        return False

    def of_role(self, role: str) -> list[Process]:
        """Its processes in one of the roles of ROLES, in order of their ids."""
        found = self.processes()
        return [process for process in found if ROLES[role](self, process, {p.pid: p for p in found})]

    def the(self, role: str) -> Process:
        """The first process of a role, once there is one."""
        self.until(lambda: self.of_role(role), f"a process that is the {role}")
        return self.of_role(role)[0]

    def kill(self, role: str, number: int = signal.SIGKILL) -> int:
        """Send a signal to the first process of a role; its pid."""
        pid = self.the(role).pid
        os.kill(pid, number)
        return pid

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal signals the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    # --- what is left of it -------------------------------------------------------------------

    def sandboxes(self) -> set[str]:
        """Ids of the sandboxes that have a record."""
        ours = (entry.relative_to(self.tmp).parts for entry in self._found())
        return {
            parts[-1]
            for parts in ours
            if parts[0].startswith("metaflow-sandbox-") and len(parts) > 1 and parts[-1].startswith("sbx-")
        }

    def _found(self) -> list[Path]:
        """All below the run's directory for temporary files; unlike glob, walk takes it that some vanish."""
        return [Path(at, name) for at, folders, files in os.walk(self.tmp) for name in (*folders, *files)]

    def leftovers(self, sandboxes: set[str]) -> list[str]:
        """Processes, directories, sockets, mounts and cgroups that are still there."""
        kept = [f"process {process.pid}: {' '.join(process.argv)}" for process in self.processes()]
        for entry in sorted(self._found()):
            # Metaflow's own temporary file stays when Metaflow is killed; the directories of all of a
            # user's sandboxes stay, empty, and so does what is known of an engine.
            ours = entry.relative_to(self.tmp).parts[0].startswith("metaflow-") or entry.is_socket()
            users = self.tmp / f"metaflow-sandbox-{os.getuid()}"
            known = entry == users or (entry.parent == users and not entry.name.startswith("sbx-"))
            if ours and not known:
                kept.append(f"file {entry}")
        for line in mounts() - self._mounts:
            if str(self.root) in line:
                kept.append(f"mount {line}")
        for folder, _, _ in os.walk("/sys/fs/cgroup"):
            if any(name in folder for name in sandboxes):
                kept.append(f"cgroup {folder}")
        return kept

    def assert_gone(self, sandboxes: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Nothing of it is left within the promised time."""
        deadline = time.monotonic() + GONE_WITHIN
        while left := self.leftovers(sandboxes):
            assert time.monotonic() < deadline, "\n".join([*left, self.output])
            time.sleep(POLL)

    def end(self) -> None:
        """Kill whatever is left, so that one failure does not become many."""
        for _ in range(3):
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(POLL)
        self.process.wait()


Role = Callable[[LiveFlow, Process, Mapping[int, Process]], bool]


def _is_bwrap(process: Process | None) -> bool:
    # The backend has it show the sandbox's id in the place of its path.
    return process is not None and process.program.startswith("bwrap")


ROLES: Mapping[str, Role] = {
    "scheduler": lambda flow, process, _: process.pid == flow.process.pid,
    "reaper": lambda flow, process, _: (
        process.runs("supervisor/main.py") and process.parent == flow.process.pid
    ),
    "supervisor": lambda _, process, known: (
        process.runs("supervisor/main.py")
        and process.parent in known
        and known[process.parent].runs("supervisor/main.py")
    ),
    "warden": lambda _, process, known: (
        process.program == "sh"
        and process.parent in known
        and known[process.parent].runs("supervisor/main.py")
    ),
    "shim": lambda _, process, __: process.runs("supervisor/shim.py"),
    "outer bwrap": lambda _, process, known: _is_bwrap(process) and not _is_bwrap(known.get(process.parent)),
    "inner bwrap": lambda _, process, known: _is_bwrap(process) and _is_bwrap(known.get(process.parent)),
    "guest": lambda _, process, __: process.runs("guest/bootstrap.py"),
    "step": lambda flow, process, _: (
        process.program.startswith("python")
        and "step" in process.argv
        and "--run-id" in process.argv
        and not process.runs("guest/bootstrap.py")
        and not process.runs("supervisor/shim.py")
    ),
}


def mounts() -> set[str]:
    """Lines of this process's table of mounts."""
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def all_processes() -> Iterator[Process]:
    """Every process whose files in /proc can be read; zombies have no arguments and are left out."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            argv = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
            parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            if argv:
                yield Process(int(entry.name), int(parent), tuple(os.fsdecode(word) for word in argv))


@contextlib.contextmanager
def live_directory() -> Iterator[Path]:
    """A directory with a path short enough for the sockets below it, and unlike any other's."""
    root = Path(tempfile.mkdtemp(prefix="msb-", dir="/tmp"))
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def live_flow(
    name: str, *arguments: str, env: Mapping[str, str] | None = None, root: Path | None = None
) -> Iterator[LiveFlow]:
    """A flow of tests/integration/flows, started; whatever is left of it at the end is killed."""
    with contextlib.ExitStack() as stack:
        place = root or stack.enter_context(live_directory())
        flow = LiveFlow(place_flow(name, place / "flow"), place, arguments, env or {})
        try:
            yield flow
        finally:
            flow.end()
