"""A fake backend whose behaviour is scripted, for tests of what uses sandboxes.

**It is not a sandbox.** Commands run as plain child processes of the caller: they read the caller's
files, reach its network and take its memory. Its isolation is PROCESS, it declares no limit, no mount
and no network wall, and refuses them like any backend. Never run code with it that you would not run
yourself.

    backend = ScriptedBackend(Script(open_failures=[QuotaExceeded("full", retry_after=1.0)]))

In another process, name it ``metaflow_extensions.sandbox.testing.scripted:ScriptedBackend`` and put the
script into the spec (``options={"script": {...}}``) or into the JSON file of METAFLOW_SANDBOX_SCRIPT.

Files put outside the sandbox's own directories (HOME, TMPDIR, the working directory) land in a private
place, and arguments, values of the environment and ``cwd`` that name them are translated to it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..backends.interface import (
    Command,
    Feature,
    Isolation,
    Process,
    SandboxInfo,
    SandboxSpec,
)
from ..backends.options import check_options
from ..errors import SandboxLost, StartFailed, UnsupportedOption
from .private_files import checked, copy_in, copy_out, remove_tree
from .process_tree import kill_tree
from .script import Outcome, Script
from .scripted_process import ChildProcess, ScriptedProcess

__all__ = ["Outcome", "Script", "ScriptedBackend", "ScriptedSandbox"]

_PREFIX = "metaflow-sandbox-"
_ID = re.compile(r"scripted-[0-9a-f]{32}")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTIONS = ("script",)
_live: weakref.WeakValueDictionary[str, ScriptedSandbox] = weakref.WeakValueDictionary()


def _root(sandbox_id: str) -> Path:
    return Path(tempfile.gettempdir(), _PREFIX + sandbox_id)


class _Performance:
    """A script and how far it has been played."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._opens, self._starts = iter(script.open_failures), iter(script.start_failures)
        self._turn = threading.Lock()

    def fail_open(self) -> None:
        self._fail(self._opens)

    def fail_start(self) -> None:
        self._fail(self._starts)

    def _fail(self, failures: Iterator[Exception | None]) -> None:
        with self._turn:
            failure = next(failures, None)
        if failure is not None:
            raise failure


class ScriptedBackend:
    """Runs commands without any wall, or doesn't run them at all, and fails when told to.

    ``events`` holds what happened, oldest first: mappings with ``event`` (opened, open failed, started, start
    failed, closed, destroyed), ``id``, ``time`` (seconds since the epoch), and ``labels`` or ``argv``.
    """

    def __init__(self, script: Script | None = None) -> None:
        self._default = _Performance(Script.from_environment() if script is None else script)
        self.features: frozenset[Feature] = self._default.script.pretend | frozenset(
            {Feature.HOST_PYTHON, Feature.STDIN, Feature.GET, Feature.NETWORK_HOST}
        )
        self.isolation = Isolation.PROCESS
        self.events: list[Mapping[str, Any]] = []
        self._from_options: dict[str, _Performance] = {}
        self._recording = threading.Lock()

    def check(self) -> None:
        """Nothing to check: it runs wherever Python does."""

    def open(self, spec: SandboxSpec) -> ScriptedSandbox:
        """Make the sandbox's private directories, unless the script says otherwise."""
        check_options(spec, self, "scripted")
        performance = self._performance(spec.options)
        time.sleep(performance.script.open_delay)
        try:
            performance.fail_open()
        except Exception:
            self.record(performance.script, "open failed", labels=dict(spec.labels))
            raise
        sandbox = ScriptedSandbox(self, performance, spec)
        _live[sandbox.id] = sandbox
        self.record(performance.script, "opened", id=sandbox.id, labels=dict(spec.labels))
        return sandbox

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Read the records that the sandboxes of this user's processes keep in the temporary directory."""
        for record in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}scripted-*/sandbox.json")):
            try:
                its = json.loads(record.read_text(encoding="utf-8"))
            except (FileNotFoundError, PermissionError):
                continue  # closed meanwhile, or another user's
            if labels.items() <= its["labels"].items():
                yield SandboxInfo(its["id"], its["labels"], its["created"])

    def destroy(self, sandbox_id: str) -> None:
        """End the sandbox wherever it was made."""
        if not _ID.fullmatch(sandbox_id):
            return
        root = _root(sandbox_id)
        sandbox = _live.get(sandbox_id)
        if sandbox is not None:
            sandbox.end("the sandbox was destroyed")
        elif root.exists():
            kill_tree(None, f"HOME={root / 'home'}")
            remove_tree(root)
        self.record(self._default.script, "destroyed", id=sandbox_id)

    def record(self, script: Script, event: str, **details: object) -> None:
        """Remember an event, and append it to the script's file."""
        entry = {"event": event, "time": time.time(), **details}
        with self._recording:
            self.events.append(entry)
            if script.events is not None:
                with script.events.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")

    def _performance(self, options: Mapping[str, Any]) -> _Performance:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise UnsupportedOption(
                f"the scripted backend has no option {', '.join(unknown)}; it takes script="
            )
        if "script" not in options:
            return self._default
        # One script played over all sandboxes that carry it: its first failure is for the first of them.
        key = json.dumps(options["script"], sort_keys=True)
        with self._recording:
            if key not in self._from_options:
                script = Script.parse(options["script"])
                if script.pretend:
                    raise UnsupportedOption("pretend: give it to the backend, not to one sandbox's options")
                self._from_options[key] = _Performance(script)
            return self._from_options[key]


class ScriptedSandbox:
    """Private directories, and the commands that were started in them."""

    def __init__(self, backend: ScriptedBackend, performance: _Performance, spec: SandboxSpec) -> None:
        self.id = f"scripted-{uuid.uuid4().hex}"
        self.root = _root(self.id)
        self._backend = backend
        self._performance = performance
        self._mounts = tuple(spec.mounts)  # none, unless the script pretends
        self._processes: list[ChildProcess | ScriptedProcess] = []
        self._changing = threading.Lock()
        self._ended: str | None = None
        self._released = False
        self._closed = False
        record = {"id": self.id, "labels": dict(spec.labels), "created": time.time()}
        try:
            self.root.mkdir(mode=0o700)
            for name in ("home", "work", "tmp", "files"):
                (self.root / name).mkdir()
            fresh = self.root / "sandbox.json.new"
            fresh.write_text(json.dumps(record), encoding="utf-8")
            fresh.rename(self.root / "sandbox.json")  # list() must not read half of it
        except OSError as error:
            remove_tree(self.root)
            raise StartFailed(
                f"no sandbox can be made below {self.root.parent}: {error}; set TMPDIR"
            ) from error

    def start(self, command: Command) -> Process:
        """Run the command, or only its outcome."""
        script = self._performance.script
        with self._changing:
            self._check_standing()
            try:
                self._performance.fail_start()
                process = self._start(command, script)
            except Exception:
                self._backend.record(script, "start failed", id=self.id, argv=list(command.argv))
                raise
            self._processes.append(process)
        self._backend.record(script, "started", id=self.id, argv=list(command.argv))
        return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a host file into the private directories."""
        place = self._place(checked(target))
        with self._changing:
            self._check_standing()
            copy_in(source, self.root, place)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a regular file out of the private directories; nothing outside of them is read."""
        place = self._place(checked(source))
        with self._changing:
            self._check_standing()
            copy_out(self.root, place, target)

    def close(self) -> None:
        """End every command and remove the directories."""
        self.end("the sandbox was closed")
        with self._changing:
            if self._closed:
                return
            self._closed = True
        self._backend.record(self._performance.script, "closed", id=self.id)

    def stats(self) -> Mapping[str, float]:
        """Nothing is measured."""
        return {}

    def end(self, reason: str) -> None:
        """Take the sandbox away; commands that still run are lost, and the second time is nothing."""
        with self._changing:
            if self._released:
                return
            self._released = True
            self._ended = self._ended or reason
            for process in self._processes:
                process.lose(reason)
                process.release()
            if any(isinstance(process, ChildProcess) for process in self._processes):
                kill_tree(None, f"HOME={self.root / 'home'}")
            remove_tree(self.root)

    def _start(self, command: Command, script: Script) -> ChildProcess | ScriptedProcess:
        lost_at = None if script.lost_after is None else time.monotonic() + script.lost_after

        def lose() -> None:
            self.end("the script took the sandbox away")

        if script.outcome is not None:
            return ScriptedProcess(script.outcome, lost_at=lost_at, lose=lose)
        if any(not name or "=" in name for name in command.env):
            raise StartFailed("a name in the command's environment is empty or holds '=': rename it")
        own = self.root / "tmp" / str(len(self._processes))
        own.mkdir(exist_ok=True)
        env = {"PATH": _PATH, "LANG": "C.UTF-8"}
        env.update((name, self._translated(value)) for name, value in command.env.items())
        # Last, because they say whose a process is.
        env.update(HOME=str(self.root / "home"), TMPDIR=str(own))
        cwd = self.root / "work" if command.cwd is None else Path(self._translated(str(command.cwd)))
        argv = [self._translated(argument) for argument in command.argv]
        return ChildProcess(
            argv, env, cwd, stdin=command.stdin, lost_at=lost_at, lose=lose, alive=self.root.exists
        )

    def _place(self, path: PurePosixPath) -> PurePosixPath:
        """Where a path inside is, below the root."""
        if path.is_relative_to(self.root) and len(path.parts) > len(self.root.parts) + 1:
            return path.relative_to(self.root)
        if len(path.parts) < 2:
            raise UnsupportedOption(f"{str(path)!r} is a directory: name a file")
        return PurePosixPath("files", *path.parts[1:])

    def _translated(self, text: str) -> str:
        """Turn a path that was put, made for one that was, or mounted into where it really is."""
        if text.startswith("unix:/"):  # the address of a socket
            return f"unix:{self._translated(text[len('unix:') :])}"
        if (
            not text.startswith("/")
            or text.strip("/") == ""
            or "\0" in text
            or len(text) > os.pathconf("/", "PC_PATH_MAX")
        ):
            return text
        path = PurePosixPath(text)
        for mount in self._mounts:
            if path.is_relative_to(mount.target):
                return str(mount.source / path.relative_to(mount.target))
        place = self.root / self._place(path)
        return str(place) if os.path.lexists(place) else text

    def _check_standing(self) -> None:
        if self._ended is None and not self.root.exists():
            self._ended = "the sandbox was destroyed"
        if self._ended is not None:
            raise SandboxLost(f"{self._ended}: open another")
