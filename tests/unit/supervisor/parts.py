"""A backend without walls for tests of what uses one, and a run for its tasks."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from metaflow_extensions.sandbox import guest
from metaflow_extensions.sandbox.backends.interface import (
    Command,
    Feature,
    Isolation,
    Output,
    PythonEnvironment,
    SandboxInfo,
    SandboxSpec,
    Stream,
)
from metaflow_extensions.sandbox.packages.cache import PackageCache
from metaflow_extensions.sandbox.relay.services import SecretSource
from metaflow_extensions.sandbox.supervisor.archives import Archives
from metaflow_extensions.sandbox.supervisor.environments import Environments
from metaflow_extensions.sandbox.supervisor.governor import Governor
from metaflow_extensions.sandbox.supervisor.outcome import Outcome
from metaflow_extensions.sandbox.supervisor.protocol import RunSettings, TaskSettings
from metaflow_extensions.sandbox.supervisor.run_context import RunContext
from metaflow_extensions.sandbox.supervisor.task import TaskRun
from metaflow_extensions.sandbox.supervisor.watcher import Watcher

from ..relay.parts import IDENTITY, STORE, WAIT, RememberingServices

PACKAGE = Path(guest.__file__).parents[1]

# What Metaflow does at a task's end, in a few lines.
FINISH = """
import gzip, hashlib, io, json, pickle
from guest.client import RelayClient
client, store, own = RelayClient(), "local@/data", "Flow/12/train/7/1."
content = pickle.dumps(True, 4)
key = hashlib.sha1(content).hexdigest()
client.save(store, [("Flow/data/%s/%s" % (key[:2], key), io.BytesIO(gzip.compress(content)),
                     {"cas_raw": False, "cas_version": 1})], False)
info = {"_task_ok": {"size": 1, "type": "bool", "encoding": "gzip+pickle-v4"}}
document = {"attempt": 1, "objects": {"_task_ok": key}, "info": info}
client.save(store, [(own + "data.json", io.BytesIO(json.dumps(document).encode()), None),
                    (own + "DONE.lock", io.BytesIO(b""), None)], True)
"""


class OpenProcess:
    """A child process."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child

    def output(self) -> Iterator[Output]:
        assert self.child.stdout is not None
        while chunk := os.read(self.child.stdout.fileno(), 65536):
            yield Output(Stream.STDOUT, chunk)

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def wait(self) -> int:
        code = self.child.wait()
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class OpenSandbox:
    """A directory; places inside are replaced by where they are outside."""

    def __init__(self, backend: OpenBackend, spec: SandboxSpec) -> None:
        self.id = f"open-{uuid.uuid4().hex[:8]}"
        self.backend, self.spec = backend, spec
        self.place = tempfile.TemporaryDirectory()
        self.processes: list[OpenProcess] = []

    def start(self, command: Command) -> OpenProcess:
        if self.backend.start_failures:
            raise self.backend.start_failures.pop(0)
        self.backend.commands.append(command)

        def outside(text: str) -> str:
            for mount in self.spec.mounts:
                text = text.replace(str(mount.target), str(mount.source))
            return text

        child = subprocess.Popen(
            [outside(argument) for argument in command.argv],
            cwd=self.place.name,
            env={"PATH": os.environ["PATH"], **{name: outside(value) for name, value in command.env.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(OpenProcess(child))
        return self.processes[-1]

    def put(self, source: Path, target: PurePosixPath) -> None:
        raise NotImplementedError

    def get(self, source: PurePosixPath, target: Path) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.child.wait()
            assert process.child.stdout is not None
            process.child.stdout.close()
        self.place.cleanup()
        self.backend.closed.append(self.id)

    def stats(self) -> Mapping[str, float]:
        if self.backend.stats_failure is not None:
            raise self.backend.stats_failure
        return {"peak_memory": 12.34}


class OpenBackend:
    """Runs commands as they are; fails as it is told."""

    features = frozenset({Feature.MOUNT, Feature.HOST_PYTHON, Feature.NETWORK_OFF})
    isolation = Isolation.PROCESS

    def __init__(self) -> None:
        self.open_failures: list[Exception] = []
        self.start_failures: list[Exception] = []
        self.stats_failure: Exception | None = None
        self.opened: list[OpenSandbox] = []
        self.closed: list[str] = []
        self.commands: list[Command] = []

    def check(self) -> None: ...

    def open(self, spec: SandboxSpec) -> OpenSandbox:
        if self.open_failures:
            raise self.open_failures.pop(0)
        self.opened.append(OpenSandbox(self, spec))
        return self.opened[-1]

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        return iter(())

    def destroy(self, sandbox_id: str) -> None: ...


class Stage:
    """A run without a scheduler; its tasks' output is collected."""

    def __init__(self, place: Path, **settings: Any) -> None:
        self.directory = place / "run"
        self.directory.mkdir()
        (self.directory / "code").mkdir()
        self.services = RememberingServices(place)
        self.backend = OpenBackend()
        self.watcher = Watcher()
        self.settings = RunSettings(
            "Flow", "12", "flow.py", str(self.directory), 0, [], "local", "/l", STORE, **settings
        )
        self.governor = Governor("scripted")
        self.context = RunContext(
            self.settings,
            self.watcher,
            lambda: self.services,
            lambda _name: self.backend,
            lambda: self.directory / "code",
            Archives(self.directory, {}),
            lambda _name: self.governor,
            Environments(PackageCache(place / "cache"), 1 << 30),
        )
        self.said = b""

    def task(self, script: str, **settings: Any) -> TaskRun:
        """A task whose step is a Python script."""
        reader, self._writer = os.pipe()
        self._reading = threading.Thread(target=self._read, args=(reader,))
        self._reading.start()
        spec = settings.pop("spec", SandboxSpec(labels={"a": "b"}))
        spec = dataclasses.replace(spec, python=PythonEnvironment(Path(sys.executable)))
        secrets: list[SecretSource] = []
        task = TaskSettings(
            IDENTITY, "open", spec, {"PYTHONPATH": str(PACKAGE)}, [], {STORE: True}, secrets, **settings
        )
        argv = [sys.executable, "-c", script]
        return TaskRun(self.context, task, argv, self._writer, self._writer)

    def run(self, script: str, **settings: Any) -> tuple[Outcome, str]:
        """(outcome, output) of a task."""
        return self.execute(self.task(script, **settings))

    def execute(self, task: TaskRun) -> tuple[Outcome, str]:
        """The same for a task that was made before."""
        outcome = task.execute()
        os.close(self._writer)
        self._reading.join(WAIT)
        return outcome, self.said.decode()

    def _read(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                self.said += chunk

    def metadata(self) -> dict[str, str]:
        """What was registered about the task."""
        return {
            field: value
            for call in self.services.calls
            if call[0] == "metadata"
            for field, value, _, _ in call[2]
        }

    def close(self) -> None:
        self.watcher.stop()
