"""One task, from its shim's request to its shim's answer."""

from __future__ import annotations

import dataclasses
import logging
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ..backends import owner
from ..backends.interface import Backend, Process, Sandbox, SandboxSpec, Stream
from ..errors import SandboxError, SandboxLost, StartFailed
from ..relay.intake import Intake
from ..relay.policy import Policy
from ..relay.server import TaskRelay
from ..relay.vetting import ArtifactPolicy
from . import words
from .direct import DirectTask
from .inside import files_of, interpreter
from .kept import Kept
from .output import OutputSink
from .protocol import TaskSettings
from .reaper import LABEL
from .record import identity, launcher_facts
from .run_context import RunContext
from .story import Story
from .tail import Tail
from .transports import Surroundings, Transport, transport

NOT_EXECUTED = (126, 127)  # what shells and inits end with when a program is not there
GRACE = 3.0  # seconds between a signal and the end; Metaflow's scheduler kills after 5
HEAR_OUT = 2.0  # seconds for the guest's last words, sent before its process ended
BACKOFF = 1.0  # seconds before the second try, doubled for each further one
MAX_BACKOFF = 60.0  # seconds

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a task ended, for its shim: an exit code, or the signal that ended the step."""

    code: int
    signal: int = 0


class TaskRun:
    """Runs one task; also the relay's witness of what its guest says."""

    def __init__(self, run: RunContext, task: TaskSettings, argv: list[str], out: int, err: int) -> None:
        self._run = run
        self._task = task
        self._argv = argv
        self._sink = OutputSink({Stream.STDOUT: out, Stream.STDERR: err}, run.settings.max_output << 20)
        self._relay: TaskRelay | None = None
        self._direct: DirectTask | None = None
        self._process: Process | None = None
        self._cancelled = threading.Event()
        self._signalled = 0
        self._user_code_started = False
        self._finished = False
        self._timed_out = False
        self._guest_signal: int | None = None
        self._guest_ended = False
        self._sandbox: Sandbox | None = None
        self._kept: Kept | None = None
        self._call_off_timeout: Callable[[], None] = lambda: None
        self._story = Story(run.journal, task, self._sink, quiet=run.settings.quiet)
        self._debug = run.debug_files(task.identity)

    # --- what the watcher calls ---------------------------------------------------------------

    def signal(self, number: int) -> None:
        """The shim was sent a signal: pass it to the step, and end it if it does not end itself."""
        self._signalled = number
        if not self.signal_guest(number):
            self.cancel()
        elif number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._run.watcher.call_at(time.monotonic() + GRACE, self.cancel)

    def cancel(self) -> None:
        """Nobody waits for this task any more: end its sandbox."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            # A provider's kill may take seconds, and the watcher must not wait.
            threading.Thread(target=self._kill, daemon=True).start()

    def _release(self) -> None:
        self.signal_guest(signal.SIGTERM)

    def _expire(self) -> None:
        self._timed_out = True
        threading.Thread(target=self._kill, daemon=True).start()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    # --- the relay's witness ------------------------------------------------------------------

    def starting(self) -> None:
        """The guest is about to start user code: from here on nothing is tried again."""
        self._user_code_started = True
        self._story.starting()

    def started(self) -> None:
        """Record where it runs, while it runs."""
        assert self._sandbox is not None
        backend = self._run.backend(self._task.backend)
        self._register(identity(self._task.backend, backend, self._sandbox.id, self._task.spec))
        if self._direct:
            self._direct.watch()

    def ended(self, signal: int | None, peak_memory: float | None, cpu_time: float | None) -> None:
        """What the guest says of the step's end."""
        self._guest_ended, self._guest_signal = True, signal
        self._story.ended(signal, peak_memory, cpu_time)

    def kept(self) -> None:
        """The step has failed, and what it left stays for a while."""
        assert self._sandbox is not None
        self._call_off_timeout()
        keep_for = self._run.settings.keep_for
        self._kept = Kept(Path(self._run.settings.directory), self._sandbox.id, keep_for, self._sink)
        self._run.watcher.call_at(time.monotonic() + keep_for, self._release)
        self._story.kept(self._kept.until)
        self._kept.start()

    def finished(self) -> None:
        """The task's results are complete."""
        self._finished = True

    def refused(self, reason: str) -> None:
        """Log a refusal where the user sees it."""
        self._story.notice(f"refused: {reason}")

    def failed(self, what: str, error: BaseException) -> None:
        """Log what the launcher could not do for the guest."""
        self._story.notice(f"{what} failed on the launcher: {type(error).__name__}: {error}", error)

    # --- what visitors see ----------------------------------------------------------------------

    @property
    def sandbox_id(self) -> str | None:
        """Of the sandbox that it has now."""
        return self._sandbox.id if self._sandbox else None

    @property
    def tail(self) -> Tail:
        """The end of its output."""
        return self._sink.tail

    def open_terminal(self, visitor: socket.socket, term: str, rows: int, columns: int) -> bool:
        """Open a shell inside; False before user code has started."""
        return self._relay is not None and self._relay.lifecycle.open_terminal(visitor, term, rows, columns)

    def signal_guest(self, number: int) -> bool:
        """Have a signal delivered inside; False when there is no guest to ask."""
        return self._relay is not None and self._relay.lifecycle.signal(number)

    # --- the task -----------------------------------------------------------------------------

    def execute(self) -> Outcome:
        """Run the task to its end; never raises what a provider or a step can cause."""
        try:
            outcome = self._execute()
        except SandboxError as error:
            self._sink.say(f"{type(error).__name__}: {error}")
            outcome = Outcome(1)
        except OSError as error:
            log.exception("%s", self._task.identity.key)
            self._sink.say(f"the sandbox could not be made or read: {error}")
            outcome = Outcome(1)
        except Exception as error:
            # A backend is foreign code, and its shim must not wait for an answer in vain.
            log.exception("%s", self._task.identity.key)
            self._sink.say(words.broken_backend(self._task.backend, error))
            outcome = Outcome(1)
        self._story.over(outcome.code, outcome.signal)
        self.tail.close()
        return outcome

    def _execute(self) -> Outcome:
        tries = self._run.settings.max_infra_retries + 1
        for number in range(1, tries + 1):
            try:
                return self._attempt()
            except (StartFailed, SandboxLost) as error:  # noqa: PERF203 -- that is the loop
                if self._user_code_started or self._cancelled.is_set() or number == tries:
                    raise
                # Jitter, so that the tasks of a foreach do not come back all at once.
                pause = min(MAX_BACKOFF, BACKOFF * 2 ** (number - 1)) * random.uniform(0.5, 1.5)  # noqa: S311
                self._story.again(error, pause)
                self._sink.say(
                    f"{type(error).__name__}: {error}\n"
                    f"No user code has run: trying again in {pause:.1f} s ({number} of {tries - 1})."
                )
                if self._cancelled.wait(pause):
                    raise
        raise AssertionError("unreachable")

    def _attempt(self) -> Outcome:
        task, settings = self._task, self._run.settings
        backend = self._run.backend(task.backend)
        directory = Path(settings.directory, f"t{abs(hash(task.identity)):x}-{threading.get_ident():x}")
        directory.mkdir()
        intake = Intake(
            task.identity.flow,
            directory,
            self._run.limits,
            ArtifactPolicy(settings.artifacts, tuple(settings.artifact_globals)),
            direct=task.direct is not None,
        )
        facts = launcher_facts(settings.datastore, task.env)
        self._relay = TaskRelay(
            Policy(task.identity, frozenset(task.inputs)),
            self._run.services,
            self,
            intake,
            settings.datastore,
            task.storages,
            task.secrets,
            facts,
            self._run.limits,
            keep=task.keep,
            trace=self._debug.frame if self._debug else None,
            direct=task.direct is not None,
        )
        if task.direct:
            self._direct = DirectTask(self._run, task, self, intake, facts)
        way = transport(
            backend.features,
            self._relay,
            Surroundings(
                settings,
                task,
                self._argv,
                directory,
                self._run.watcher,
                self._run.code,
                self._run.archives,
                lambda: self._files(directory),
            ),
        )
        try:
            try:
                outcome = self._with_sandbox(backend, way)
            finally:
                if self._direct and self._user_code_started:
                    self._direct.settle(cancelled=self._cancelled.is_set())
            if outcome == Outcome(0) and not self._finished:
                self._conclude(words.UNFINISHED)
                return Outcome(1)
            return outcome
        finally:
            way.close()
            self._relay.close()
            shutil.rmtree(directory)

    def _with_sandbox(self, backend: Backend, way: Transport) -> Outcome:
        with self._run.governor(self._task.backend).sandbox(
            lambda: self._open(backend, way.spec()), self._story.progress, self._cancelled.is_set
        ) as self._sandbox:
            try:
                return self._in_sandbox(backend, self._sandbox, way)
            finally:
                self._close(self._sandbox)

    def _open(self, backend: Backend, spec: SandboxSpec) -> Sandbox:
        labels = {
            **spec.labels,
            **owner.labels(),
            LABEL: Path(self._run.settings.directory).name,
            "backend": self._task.backend,
        }
        self._story.opening()
        return backend.open(dataclasses.replace(spec, labels=labels, tell=self._story.progress))

    def _close(self, sandbox: Sandbox) -> None:
        if self._kept:
            self._kept.end()
        stats: Mapping[str, float] = {}
        try:
            stats = sandbox.stats()
        finally:
            self._story.closing(stats)
            sandbox.close()
        self._sink.finish()
        self._story.closed()
        if self._user_code_started:
            self._register(self._story.record.measurements())

    def _in_sandbox(self, backend: Backend, sandbox: Sandbox, way: Transport) -> Outcome:
        try:
            outcome = self._with_guest(backend, sandbox, way)
        except SandboxError as error:
            if not self._kept:
                self._story.record.outcome = f"{type(error).__name__}: {error}"
                raise
            outcome = Outcome(1)  # somebody has seen enough of it, and ended it
        if not self._story.record.outcome:
            code, number = outcome.code, outcome.signal
            self._story.record.outcome = f"ended by signal {number}" if number else f"exit code {code}"
        if outcome.code and self._user_code_started and not (self._task.keep or self._cancelled.is_set()):
            self._story.progress(words.HOW_TO_KEEP)
        return outcome

    def _with_guest(self, backend: Backend, sandbox: Sandbox, way: Transport) -> Outcome:
        task, command = self._task, way.command()
        if self._debug:
            self._debug.command(command, way.spec())
            self._story.progress(f"debug: {self._debug.directory}")
        process = sandbox.start(command)
        self._process = process
        self._story.opened(backend, sandbox.id)
        if self._cancelled.is_set():
            process.kill()
        if task.timeout is not None:
            deadline = time.monotonic() + task.timeout
            self._call_off_timeout = self._run.watcher.call_at(deadline, self._expire)
        try:
            for output in way.output(process):
                self._sink.feed(output)
            return self._outcome(process.wait())
        finally:
            self._call_off_timeout()

    def _outcome(self, code: int) -> Outcome:
        if self._timed_out:
            self._conclude(words.timed_out(self._task.timeout))
            return Outcome(1)
        if self._cancelled.is_set():
            self._story.record.outcome = "cancelled"
            return Outcome(1, self._signalled)
        # In direct mode the launcher marks what is done, once the sandbox is gone.
        if code == 0 and not self._finished and not self._direct:
            self._conclude(words.UNFINISHED)
            return Outcome(1)
        if code in NOT_EXECUTED and not self._user_code_started:
            self._conclude(words.no_python(interpreter(self._task, self._argv)))
        if self._user_code_started and self._relay is not None:
            self._relay.lifecycle.heard_out(HEAR_OUT)
        # A step may exit with such a number, too: only where the guest says nothing is it a signal's.
        number = self._guest_signal if self._guest_ended else code - 128
        if number in signal.valid_signals() and number == code - 128:
            if number == signal.SIGKILL:
                self._conclude(words.killed(self._task.spec.memory))
            return Outcome(code, number)
        return Outcome(code)

    def _conclude(self, why: str) -> None:
        """Say behind the step's last words why its task ends as it does, and record it."""
        self._sink.finish()
        self._sink.say(why)
        self._story.record.outcome = why

    def _files(self, directory: Path) -> Mapping[str, Path]:
        python = interpreter(self._task, self._argv)
        return {**files_of(self._argv), **(self._direct.files(directory, python) if self._direct else {})}

    def _register(self, values: Mapping[str, str]) -> None:
        identity = self._task.identity
        tags = [f"attempt_id:{identity.attempt}"]
        try:
            self._run.services().register_metadata(
                identity, [(name, value, name, tags) for name, value in values.items()]
            )
        except Exception as error:  # noqa: BLE001 -- the metadata provider's own errors are its to name
            self.failed("register_metadata", error)
