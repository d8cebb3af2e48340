"""The backend interface: what a provider of sandboxes implements, and the values that pass through it.

A backend translates; it owns no retries, deadlines, logging or Metaflow knowledge. New options
extend ``SandboxSpec``, never the signatures. The contract it must keep is shipped as tests in
``metaflow_extensions.sandbox.testing.contract``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from .spec import Layer as Layer
from .spec import Mount as Mount
from .spec import PythonEnvironment as PythonEnvironment
from .spec import SandboxSpec as SandboxSpec
from .spec import Secret as Secret


class Feature(enum.Enum):
    """What a backend can do; an option that needs an absent feature is refused."""

    MOUNT = "host directories and sockets can be mounted, same kernel on both sides"
    HOST_PYTHON = "the launcher's own Python environment is visible inside, read-only"
    STDIN = "Process.send writes to the command's standard input"
    GET = "Sandbox.get copies files out, also after a command ended"
    IMAGE = "an image can be named"
    NETWORK_OFF = "the network can be cut"
    NETWORK_HOST = "the host's network can be shared"
    NETWORK_PUBLIC = "the public internet can be reached without reaching the host"
    EGRESS_LIST = "egress can be limited to named hosts"
    CPU_LIMIT = "cores are limited"
    MEMORY_LIMIT = "memory of the whole sandbox is limited"
    PROCESS_LIMIT = "the number of processes is limited"
    DISK_LIMIT = "writable space is limited"
    GPU = "GPUs can be passed in"
    REMOTE = "sandboxes are on a provider's machines, far from the launcher and near to its cloud storage"
    SECRETS = "secrets are put into requests on their way out, and never enter"
    LAYERS = "files become part of what sandboxes are made from, once for all of them"
    FILES = "files go in and out faster than through a command's streams: see FileSandbox"


class Isolation(enum.IntEnum):
    """What stands between a step and the host; a higher value is a stronger wall."""

    PROCESS = 1
    CONTAINER = 2
    VM = 3

    @property
    def label(self) -> str:
        """The name used in options, logs and metadata: process, container or vm."""
        return self.name.lower()


class Stream(enum.Enum):
    """Which of a command's streams a chunk of output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True)
class Output:
    """One chunk of output, exactly as the command wrote it."""

    stream: Stream
    data: bytes


@dataclass(frozen=True)
class Command:
    """A command to run: ``argv`` is never passed through a shell.

    ``env`` is the whole environment besides PATH, HOME, TMPDIR and LANG, which the backend sets
    for its own file system; nothing else is inherited. ``cwd`` None means the backend's writable
    working directory, which is also ``HOME``'s sibling and exists.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: PurePosixPath | None = None
    stdin: bool = False


@dataclass(frozen=True)
class SandboxInfo:
    """One line of ``Backend.list``: ``created`` is in seconds since the epoch."""

    id: str
    labels: Mapping[str, str]
    created: float


class Process(Protocol):
    """A command running in a sandbox."""

    def output(self) -> Iterator[Output]:
        """Chunks in order of arrival; ends after the command and its tree are gone.

        Raises SandboxLost when the sandbox goes away under the command.
        """

    def send(self, data: bytes) -> None:
        """Write to standard input, which needs Feature.STDIN; ``b""`` is end of file."""

    def wait(self) -> int:
        """The exit code once the command ended; death by signal n is 128 + n."""

    def kill(self) -> None:
        """Kill the whole process tree; idempotent."""


class Sandbox(Protocol):
    """One throw-away sandbox."""

    @property
    def id(self) -> str:
        """Unique on this backend, printable, at most 64 characters."""

    def start(self, command: Command) -> Process:
        """Start a command. Raises StartFailed; then nothing of it ran."""

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a host file to an absolute path inside, before a command that needs it starts."""

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file out, which needs Feature.GET. Links are refused."""

    def close(self) -> None:
        """End everything that runs inside and remove every trace; idempotent."""

    def stats(self) -> Mapping[str, float]:
        """What the backend measured, any of: peak_memory (MiB), cpu_time (seconds)."""


class FileSandbox(Sandbox, Protocol):
    """One of a backend with Feature.FILES, whose ``put`` and ``read`` are for paths that a step names, too.

    It must not matter to this machine what is there: the provider reads and writes inside.
    """

    def read(self, source: PurePosixPath) -> Iterator[bytes]:
        """Content of a file that is not empty, and need not end.

        Raises FileNotFoundError; SandboxError also on the way.
        """


class Backend(Protocol):
    """A provider of sandboxes; built without arguments, cheap to build.

    One with a ``default_image`` runs steps in it that name none. One that has only some sizes refuses others,
    and may have a method ``next_size(limit, amount)``: the least size for that much of "cpu", "memory" or
    "disk", which a step is given that only asks for at least so much.
    """

    features: frozenset[Feature]
    isolation: Isolation

    def check(self) -> None:
        """Raise BackendUnavailable, naming the cause and the command that mends it."""

    def open(self, spec: SandboxSpec) -> Sandbox:
        """Make a sandbox. Raises UnsupportedOption, StartFailed or QuotaExceeded."""

    def list(self, labels: Mapping[str, str]) -> Iterable[SandboxInfo]:
        """Sandboxes that carry all the given labels, made by any process of this user."""

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox made by any process of this user; idempotent."""
