"""One task, from its shim's request to its shim's answer."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from ..backends.interface import Backend, Sandbox, SandboxSpec, Stream
from ..errors import SandboxError
from ..relay.intake import Intake
from ..relay.policy import Policy
from ..relay.server import TaskRelay
from ..relay.vetting import ArtifactPolicy
from . import words
from .direct import DirectTask
from .ending import Ending
from .environments import Environment, Workshop
from .inside import files_of, interpreter
from .kept import Kept
from .outcome import Outcome, tried
from .output import OutputSink
from .protocol import TaskSettings
from .record import identity, launcher_facts, packages_of
from .run_context import RunContext
from .story import Story
from .tail import Tail
from .transports import Surroundings, Transport, transport
from .uploads import upload

NOT_EXECUTED = (126, 127)  # what shells and inits end with when a program is not there
GRACE = 3.0  # seconds between a signal and the end; Metaflow's scheduler kills after 5
HEAR_OUT = 2.0  # seconds for the guest's last words, sent before its process ended

log = logging.getLogger(__name__)


class TaskRun:
    """Runs one task; also the relay's witness of what its guest says."""

    def __init__(self, run: RunContext, task: TaskSettings, argv: list[str], out: int, err: int) -> None:
        self._run = run
        self._task = task
        self._argv = argv
        self._sink = OutputSink({Stream.STDOUT: out, Stream.STDERR: err}, run.settings.max_output << 20)
        self._relay: TaskRelay | None = None
        self._direct: DirectTask | None = None
        self._ending = Ending(run.watcher)
        self._signalled = 0
        self._user_code_started = False
        self._finished = False
        self._guest_signal: int | None = None
        self._guest_ended = False
        self._sandbox: Sandbox | None = None
        self._kept: Kept | None = None
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
        self._ending.cancel()

    def _release(self) -> None:
        self.signal_guest(signal.SIGTERM)

    # --- the relay's witness ------------------------------------------------------------------

    def starting(self) -> None:
        """The guest is about to start user code: from here on nothing is tried again."""
        self._user_code_started = True
        self._story.starting()

    def started(self) -> None:
        """Record where it runs, while it runs."""
        assert self._sandbox is not None
        backend = self._run.backend(self._task.backend)
        known = identity(self._task.backend, backend, self._sandbox.id, self._task.spec)
        self._register({**known, **packages_of(self._task), **self._story.record.startup()})
        if self._direct:
            self._direct.watch()

    def ended(self, signal: int | None, peak_memory: float | None, cpu_time: float | None) -> None:
        """What the guest says of the step's end."""
        self._guest_ended, self._guest_signal = True, signal
        self._story.ended(signal, peak_memory, cpu_time)

    def kept(self) -> None:
        """The step has failed, and what it left stays for a while."""
        assert self._sandbox is not None
        self._ending.call_off()
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
            self._sink.say(words.failure(error))
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
        return tried(
            self._attempt, tries, lambda: self._user_code_started or self._ending.cancelled(), self._again
        )

    def _again(self, error: SandboxError, number: int, pause: float) -> bool:
        self._story.again(error, pause)
        self._sink.say(words.trying_again(error, pause, number, self._run.settings.max_infra_retries))
        return self._ending.wait(pause)

    def _attempt(self) -> Outcome:
        backend = self._run.backend(self._task.backend)
        workshop = Workshop(
            backend,
            lambda spec: self._made(backend, lambda: spec),
            self._ending.running,
            self._story.progress,
            self._ending.cancelled,
        )
        with self._run.environments.of(self._task, self._argv, workshop) as environment:
            return self._attempt_with(environment, backend)

    def _attempt_with(self, environment: Environment | None, backend: Backend) -> Outcome:
        task, settings = self._task, self._run.settings
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
                environment,
            ),
        )
        try:
            try:
                outcome = self._with_sandbox(backend, way, directory)
            finally:
                if self._direct and self._user_code_started:
                    self._direct.settle(cancelled=self._ending.cancelled())
            if outcome == Outcome(0) and not self._finished:
                self._conclude(words.UNFINISHED)
                return Outcome(1)
            return outcome
        finally:
            way.close()
            self._relay.close()
            shutil.rmtree(directory)

    def _with_sandbox(self, backend: Backend, way: Transport, directory: Path) -> Outcome:
        def spec() -> SandboxSpec:
            self._story.opening()
            return way.spec()

        with self._made(backend, spec) as self._sandbox:
            try:
                return self._in_sandbox(backend, self._sandbox, way, directory)
            finally:
                self._close(self._sandbox)

    def _made(self, backend: Backend, spec: Callable[[], SandboxSpec]) -> AbstractContextManager[Sandbox]:
        return self._run.governor(self._task.backend).sandbox(
            lambda: self._open(backend, spec()), self._story.progress, self._ending.cancelled
        )

    def _open(self, backend: Backend, spec: SandboxSpec) -> Sandbox:
        labels = {**spec.labels, **self._run.labels, "backend": self._task.backend}
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

    def _in_sandbox(self, backend: Backend, sandbox: Sandbox, way: Transport, directory: Path) -> Outcome:
        try:
            outcome = self._with_guest(backend, sandbox, way, directory)
        except SandboxError as error:
            if not self._kept:
                self._story.record.outcome = f"{type(error).__name__}: {error}"
                raise
            outcome = Outcome(1)  # somebody has seen enough of it, and ended it
        if not self._story.record.outcome:
            self._story.record.outcome = str(outcome)
        if outcome.code and self._user_code_started and not (self._task.keep or self._ending.cancelled()):
            self._story.progress(words.HOW_TO_KEEP)
        return outcome

    def _with_guest(self, backend: Backend, sandbox: Sandbox, way: Transport, directory: Path) -> Outcome:
        task, command = self._task, way.command()
        if self._debug:
            self._debug.command(command, way.spec())
            self._story.progress(f"debug: {self._debug.directory}")
        upload(sandbox, task.uploads, directory)
        process = sandbox.start(command)
        self._story.opened(backend, sandbox.id)
        self._ending.running(process)
        if task.timeout is not None:
            self._ending.expire_after(task.timeout)
        try:
            for output in way.output(process, sandbox):
                self._sink.feed(output)
            return self._outcome(process.wait())
        finally:
            self._ending.call_off()

    def _outcome(self, code: int) -> Outcome:
        if self._ending.timed_out:
            self._conclude(words.timed_out(self._task.timeout))
            return Outcome(1)
        if self._ending.cancelled():
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
        own = self._direct.files(directory, interpreter(self._task, self._argv)) if self._direct else {}
        return {**files_of(self._argv), **own}

    def _register(self, values: Mapping[str, str]) -> None:
        task = self._task.identity
        facts = [(name, value, name, [f"attempt_id:{task.attempt}"]) for name, value in values.items()]
        try:
            self._run.services().register_metadata(task, facts)
        except Exception as error:  # noqa: BLE001 -- the metadata provider's own errors are its to name
            self.failed("register_metadata", error)
