"""Serves the tasks of one run: a shim connects, its task runs, its shim is answered."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import struct
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from ..backends import registry
from ..backends.interface import Backend
from ..errors import SandboxError, UnsupportedOption
from ..packages.cache import PackageCache
from ..relay.services import Services
from . import run_directories
from .archives import Archives
from .environments import Environments
from .governor import Governor
from .journal import Journal
from .outcome import Outcome
from .output import OURS
from .protocol import CodeSettings, RunSettings, TaskSettings, decode
from .reaper import BACKENDS, CLOSING, destroy_all
from .run_context import RunContext
from .shim import ENDED
from .task import TaskRun
from .visits import VISITS, receive_visitor
from .watcher import Watcher

MAX_REQUEST = 8 << 20  # bytes; Linux allows about 2 MiB of arguments
STDERR = 2
SPEC_WAIT = 10.0  # seconds for a task's settings, sent before its shim was started
DRAIN_WAIT = 10.0  # seconds for all sandboxes to close when the run is gone
SWITCH_INTERVAL = sys.getswitchinterval()  # seconds

log = logging.getLogger(__name__)


class Server:
    """The tasks of one run."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._tasks: dict[str, TaskSettings] = {}
        self._arrived = threading.Condition()
        self._running: dict[TaskRun, threading.Thread] = {}
        self._loaded: dict[str, Backend] = {}
        self._backends: dict[str, Backend] = {}  # those that tasks use
        self._governors: dict[str, Governor] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._services: Future[Services] = Future()
        self._code: Future[CodeSettings] = Future()
        self._watcher = Watcher()
        self._journal = Journal(settings.events, {"flow": settings.flow, "run": settings.run})
        self._control = socket.socket(fileno=settings.control)
        self._control.setblocking(False)
        self._context = RunContext(
            settings,
            self._watcher,
            self._services.result,
            self._backend,
            self._code_directory,
            Archives(Path(settings.directory), settings.libraries),
            self._governor,
            Environments(PackageCache(Path(settings.cache)), (settings.cache_size << 20) or sys.maxsize),
            self._journal,
        )

    def serve(self, word: int) -> None:
        """Run tasks until the lifeline ends, say so on ``word``, then end what still runs."""
        # Ahead of Metaflow: beside that import each of these modules would take twice as long.
        for name in self._settings.backends:
            with contextlib.suppress(SandboxError):  # it is raised again for the first task
                self._load(name)
        threading.Thread(target=self._import_metaflow, name="import", daemon=True).start()
        self._watcher.watch(self._control, self._accept)
        with os.fdopen(0, "rb", closefd=False) as lifeline:
            for line in lifeline:
                self._learn(decode(line))
        os.write(word, CLOSING)
        with self._lock:
            self._closing = True
            running = dict(self._running)
        for task in running:
            task.cancel()
        deadline = time.monotonic() + DRAIN_WAIT
        for thread in running.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in running.values()):
            self._leave_nothing()
        summary = self._journal.close()
        if summary and not self._settings.quiet:
            # Whoever read it may have gone.
            with contextlib.suppress(OSError):
                os.write(STDERR, f"{OURS}{summary}\n".encode())

    def _leave_nothing(self) -> None:
        """What the reaper would do, which would have to import the backends first."""
        run = Path(self._settings.directory)
        try:
            for backend in list(self._backends.values()):
                destroy_all(backend, run)
        except Exception:
            log.exception("the reaper tries again")
        else:
            (run / BACKENDS).unlink(missing_ok=True)

    def _import_metaflow(self) -> None:
        try:
            from .providers import Providers

            if self._settings.trace:
                from .spans import Spans

                self._journal.tracer = Spans(self._settings.trace)
            self._services.set_result(Providers(self._settings))
        except BaseException as error:  # noqa: BLE001 -- whoever asks for the services is told
            self._services.set_exception(error)
        finally:
            sys.setswitchinterval(SWITCH_INTERVAL)

    def _backend(self, name: str) -> Backend:
        with self._lock:
            if name not in self._backends:
                backend = self._load(name)
                # Before the first sandbox is made: the reaper has to know where to look.
                with Path(self._settings.directory, BACKENDS).open("a") as record:
                    record.write(f"{name}\n")
                self._backends[name] = backend
            return self._backends[name]

    def _load(self, name: str) -> Backend:
        if name not in self._loaded:
            self._loaded[name] = registry.load_again(name)
        return self._loaded[name]

    def _governor(self, name: str) -> Governor:
        with self._lock:
            if name not in self._governors:
                settings = self._settings
                self._governors[name] = Governor(
                    name, settings.max_sandboxes or None, settings.max_rate or None
                )
            return self._governors[name]

    def _learn(self, settings: RunSettings | TaskSettings | CodeSettings) -> None:
        if isinstance(settings, CodeSettings):
            self._code.set_result(settings)
        elif isinstance(settings, TaskSettings):
            with self._arrived:
                self._tasks[settings.identity.key] = settings
                self._arrived.notify_all()

    def _code_directory(self) -> Path:
        code = self._code.result()
        if code.error:
            raise UnsupportedOption(code.error)
        return Path(code.directory)

    def _accept(self) -> None:
        try:
            shim, _ = self._control.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it is gone again
        threading.Thread(target=self._serve_shim, args=(shim,)).start()

    def _serve_shim(self, shim: socket.socket) -> None:
        try:
            key, argv, out, err = receive_request(shim)
        except (OSError, ValueError, struct.error) as error:
            log.warning("a shim's request: %s", error)
            shim.close()
            return
        if key in VISITS:
            os.close(out)
            os.close(err)
            with self._lock:
                running = list(self._running)
            receive_visitor(shim, key, argv, running)
            return
        try:
            task = self._settings_of(key)
            run = TaskRun(self._context, task, argv, out, err)
            with self._lock:
                if self._closing:
                    return
                self._running[run] = threading.current_thread()
            self._watcher.watch(shim, lambda: self._heard(shim, run))
            outcome = run.execute()
            with self._lock:
                del self._running[run]
            self._answer(shim, outcome)
        finally:
            os.close(out)
            os.close(err)
            self._watcher.forget(shim)

    def _settings_of(self, key: str) -> TaskSettings:
        with self._arrived:
            if not self._arrived.wait_for(lambda: key in self._tasks, SPEC_WAIT):
                raise KeyError(f"the scheduler has not said what {key} is")
            return self._tasks.pop(key)

    def _heard(self, shim: socket.socket, run: TaskRun) -> None:
        try:
            numbers = shim.recv(64)
        except OSError:
            numbers = b""
        if not numbers:
            self._watcher.forget(shim)
            run.cancel()
        for number in numbers:
            run.signal(number)

    @staticmethod
    def _answer(shim: socket.socket, outcome: Outcome) -> None:
        try:
            shim.send(ENDED.pack(outcome.code & 0xFF, outcome.signal))
        except OSError as error:
            log.warning("a shim has gone: %s", error)


def receive_request(shim: socket.socket) -> tuple[str, list[str], int, int]:
    """(key, command, stdout, stderr) of a task. Raises ValueError or struct.error for anything else."""
    first, descriptors, _flags, _address = socket.recv_fds(shim, 4, 2)
    try:
        out, err = descriptors
        (size,) = struct.unpack("!I", first)
        key, *argv = receive(shim, size).decode("utf-8", "surrogateescape").split("\0")
    except (OSError, ValueError, struct.error):
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return key, argv, out, err


def receive(shim: socket.socket, size: int) -> bytes:
    """So many bytes. Raises ValueError when there are fewer, or too many are announced."""
    if size > MAX_REQUEST:
        raise ValueError("too large")
    body = b""
    while len(body) < size:
        part = shim.recv(size - len(body))
        if not part:
            raise ValueError("it ended early")
        body += part
    return body


def serve(line: bytes, word: int) -> None:
    """Serve the run that the line describes; ``word`` is written to when the run is gone."""
    settings = decode(line)
    assert isinstance(settings, RunSettings)
    # The parent is the reaper.
    run_directories.note_owners(Path(settings.directory), os.getpid(), os.getppid())
    logging.basicConfig(
        filename=Path(settings.directory, "supervisor.log"),
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
        # Messages quote guests.
        errors="backslashreplace",
    )
    # A log that cannot be written, on a full disk, is nothing to print tracebacks about.
    logging.raiseExceptions = False
    # A guest has up to 64 connections, each of which may hold two files: the soft limit is often 1,024.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The import of Metaflow must not hold up the first sandbox for long.
    sys.setswitchinterval(SWITCH_INTERVAL / 5)
    Server(settings).serve(word)
    logging.shutdown()
    # Threads that still hang on a provider must not keep the process: its children die with it.
    os._exit(0)
