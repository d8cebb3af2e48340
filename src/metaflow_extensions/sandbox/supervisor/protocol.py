"""What the scheduler's process tells the supervisor: the run, then each task, a JSON line each.

The pipe that carries the lines is the run's lifeline: its end means that the run is gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..backends.interface import Mount, PythonEnvironment, SandboxSpec, Secret
from ..packages.lock import Lock
from ..relay.policy import TaskIdentity
from ..relay.services import SecretSource


@dataclass(frozen=True)
class RunSettings:
    """One run, as the supervisor has to know it.

    ``directory`` is the run's private directory, ``control`` the descriptor of the listening
    socket in it, ``datastore`` is TYPE@ROOT, sizes are in MiB. ``max_sandboxes`` at once and ``max_rate`` a
    second are of each backend, 0 for any. ``backends`` are imported ahead.
    ``libraries`` map where Metaflow and its extensions are to be, below a directory of the search path, to
    where they are on the launcher. ``cache`` is the directory for packages.
    """

    flow: str
    run: str
    script: str
    directory: str
    control: int
    sys_path: list[str]
    metadata: str
    local_root: str
    datastore: str
    backends: list[str] = field(default_factory=list)
    libraries: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    max_artifact: int = 8 * 1024
    max_upload: int = 64 * 1024
    max_output: int = 16
    max_infra_retries: int = 2
    max_sandboxes: int = 0
    max_rate: float = 0
    artifacts: str = "any"
    artifact_globals: list[str] = field(default_factory=list)
    quiet: bool = False
    events: str = ""
    debug: str = ""
    keep_for: float = 900.0
    trace: dict[str, str] = field(default_factory=dict)
    cache: str = ""
    cache_size: int = 20 * 1024


@dataclass(frozen=True)
class Upload:
    """A file to be copied to ``remote``, with execute permission or without, None for its own."""

    local: Path
    remote: PurePosixPath
    executable: bool | None = None


@dataclass(frozen=True)
class CondaFiles:
    """What Metaflow has resolved and fetched for one of its environments, by the name of each file inside.

    ``names`` are its packages, ``files`` map conda/CHANNEL/FILE and pypi/FILE to where they are.
    """

    id: str
    platform: str
    names: list[str]
    files: dict[str, str]
    micromamba: str | None = None


@dataclass(frozen=True)
class Packages:
    """What a step runs with instead of the launcher's environment, and its name in the cache."""

    key: str
    lock: Lock | None = None
    conda: CondaFiles | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the cache says of it."""
        if self.conda:
            return {"python": "of conda", "packages": self.conda.names}
        assert self.lock is not None
        return {"python": self.lock.python, "packages": self.lock.names}

    @property
    def recorded(self) -> str:
        """What the task's metadata says of it."""
        if self.conda:
            content = {"id": self.conda.id, "platform": self.conda.platform, "packages": self.conda.names}
            return json.dumps(content)
        assert self.lock is not None
        return self.lock.recorded()


@dataclass(frozen=True)
class DirectSettings:
    """How a task reaches the flow's datastore itself; no secrets are in here.

    ``libraries`` is a directory with boto3, empty where the launcher's own is visible; ``certificates`` a
    file of authorities, empty for the usual ones; ``configuration`` the lines of an AWS configuration.
    """

    libraries: str
    certificates: str
    configuration: dict[str, str]


@dataclass(frozen=True)
class TaskSettings:
    """One attempt of one task: the sandbox it asks for and what it may reach.

    ``storages`` map TYPE@ROOT to whether the task may write there; ``timeout`` is in seconds.
    ``env`` is the step's whole environment; it may hold secrets, so it travels through the pipe and
    never stands in an argument list. With ``keep`` the sandbox of a step that fails stays for a while.
    """

    identity: TaskIdentity
    backend: str
    spec: SandboxSpec
    env: dict[str, str]
    inputs: list[str]
    storages: dict[str, bool]
    secrets: list[SecretSource] = field(default_factory=list)
    timeout: float | None = None
    executable: str | None = None
    keep: bool = False
    direct: DirectSettings | None = None
    uploads: list[Upload] = field(default_factory=list)
    packages: Packages | None = None

    @property
    def hosted(self) -> bool:
        """Whether the step runs in the launcher's own Python environment, Metaflow included."""
        return self.spec.python is not None and self.packages is None


@dataclass(frozen=True)
class CodeSettings:
    """Where the run's code has been copied to, or why it could not be."""

    directory: str
    error: str | None = None


KINDS = {"run": RunSettings, "task": TaskSettings, "code": CodeSettings}


def encode(settings: RunSettings | TaskSettings | CodeSettings) -> bytes:
    """One line."""
    kind = next(name for name, known in KINDS.items() if type(settings) is known)
    return json.dumps({"kind": kind, **dataclasses.asdict(settings)}, default=os.fspath).encode() + b"\n"


def decode(line: bytes) -> RunSettings | TaskSettings | CodeSettings:
    """The inverse of ``encode``."""
    fields: dict[str, Any] = json.loads(line)
    kind = KINDS[fields.pop("kind")]
    return _task(fields) if kind is TaskSettings else kind(**fields)


def _task(fields: dict[str, Any]) -> TaskSettings:
    fields["identity"] = TaskIdentity(**fields["identity"])
    fields["secrets"] = [SecretSource(**source) for source in fields["secrets"]]
    if fields["direct"] is not None:
        fields["direct"] = DirectSettings(**fields["direct"])
    fields["uploads"] = [
        Upload(Path(file["local"]), PurePosixPath(file["remote"]), file["executable"])
        for file in fields["uploads"]
    ]
    if fields["packages"] is not None:
        packages = fields["packages"]
        lock, conda = packages["lock"], packages["conda"]
        fields["packages"] = Packages(
            packages["key"], lock and Lock.from_json(lock), conda and CondaFiles(**conda)
        )
    spec = fields["spec"]
    spec["mounts"] = [
        Mount(Path(mount["source"]), PurePosixPath(mount["target"]), mount["read_only"])
        for mount in spec["mounts"]
    ]
    spec["secrets"] = tuple(
        Secret(secret["name"], secret["value"], tuple(secret["hosts"])) for secret in spec["secrets"]
    )
    if isinstance(spec["network"], list):
        spec["network"] = tuple(spec["network"])
    if spec["python"] is not None:
        python = spec["python"]
        spec["python"] = PythonEnvironment(
            Path(python["executable"]),
            tuple(map(Path, python["roots"])),
            tuple(map(Path, python["path"])),
        )
    fields["spec"] = SandboxSpec(**spec)
    return TaskSettings(**fields)
