"""How a task's guest gets its code and reaches its relay: by mounts, or over its stdin and stdout."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, cast

from ..backends.interface import (
    Command,
    Feature,
    FileSandbox,
    Mount,
    Output,
    Process,
    Sandbox,
    SandboxSpec,
    Stream,
)
from ..guest import stdio, unpack
from ..guest.large_files import VARIABLE as FILES_VARIABLE
from ..relay.server import TaskRelay
from ..relay.stdio import StdioRelay
from .archives import Archives, framed, task_archive
from .environments import Environment
from .inside import (
    CODE,
    INSIDE,
    LIBRARIES,
    RELAY,
    S3_LIBRARIES,
    bootstrap,
    interpreter,
    step_variables,
    step_words,
)
from .protocol import RunSettings, TaskSettings
from .watcher import Watcher


@dataclass(frozen=True)
class Surroundings:
    """What a task's sandbox is made from; ``directory`` is the task's own, private.

    ``code`` and ``archives`` may take a moment the first time: the flow's code is being copied. ``files``
    gives the task's own files by their names inside.
    """

    run: RunSettings
    task: TaskSettings
    argv: Sequence[str]
    directory: Path
    watcher: Watcher
    code: Callable[[], Path]
    archives: Archives
    files: Callable[[], Mapping[str, Path]]
    environment: Environment | None = None

    @property
    def packages(self) -> PurePosixPath | None:
        """Where the step's packages are inside."""
        return self.environment.place if self.environment else None


class Transport(Protocol):
    """One task's way."""

    def spec(self) -> SandboxSpec:
        """The sandbox to open."""

    def command(self) -> Command:
        """The guest's command, which starts the step."""

    def output(self, process: Process, sandbox: Sandbox) -> Iterable[Output]:
        """The step's output; whatever else the guest sends is served meanwhile."""

    def close(self) -> None:
        """Accept no further connection."""


def transport(features: frozenset[Feature], relay: TaskRelay, surroundings: Surroundings) -> Transport:
    """The best way that a backend with those features has; without mounts it needs STDIN."""
    if Feature.MOUNT in features:
        return Mounts(relay, surroundings)
    return Pipes(relay, surroundings, features)


class Mounts:
    """Directories of the launcher are mounted, and the relay is a socket among them."""

    def __init__(self, relay: TaskRelay, surroundings: Surroundings) -> None:
        self._here = surroundings
        self._listener = listen(surroundings.directory / RELAY, relay, surroundings.watcher)

    def spec(self) -> SandboxSpec:
        """The sandbox with its mounts."""
        here = self._here
        mounts = [*here.task.spec.mounts, Mount(here.code(), INSIDE / CODE)]
        mounts.append(Mount(here.directory / RELAY, INSIDE / RELAY, read_only=False))
        if here.environment:
            mounts.append(Mount(here.environment.directory, here.environment.place))
        if not here.task.hosted:
            mounts += [
                Mount(Path(source), INSIDE / LIBRARIES / name) for name, source in here.run.libraries.items()
            ]
        if here.task.direct and here.task.direct.libraries:
            mounts.append(Mount(Path(here.task.direct.libraries), INSIDE / S3_LIBRARIES))
        for name, source in here.files().items():
            copy = here.directory / name
            copy.write_bytes(source.read_bytes())
            # Readable by whoever the backend runs the step as; the directory above is private.
            copy.chmod(0o644)
            mounts.append(Mount(copy, INSIDE / name))
        return dataclasses.replace(here.task.spec, mounts=mounts)

    def command(self) -> Command:
        """The guest's bootstrap."""
        here = self._here
        words = step_words(here.run, here.task, here.argv, here.packages)
        python = interpreter(here.task, here.argv)
        return Command(
            [python, "-I", "-S", bootstrap(here.task), str(INSIDE / CODE), "--", *words],
            env=step_variables(here.task, here.packages),
        )

    def output(self, process: Process, _sandbox: Sandbox) -> Iterable[Output]:
        """What the command writes."""
        return process.output()

    def close(self) -> None:
        """Stop listening."""
        self._here.watcher.forget(self._listener)


class Pipes:
    """Everything goes over the command's stdin and stdout: archives first, then the relay's channels.

    Packages go with what the sandbox is made from, where the backend can.
    """

    def __init__(self, relay: TaskRelay, surroundings: Surroundings, features: frozenset[Feature]) -> None:
        self._here = surroundings
        self._relay = relay
        self._far = Feature.REMOTE in features
        self._files = Feature.FILES in features
        self._layered = surroundings.environment if Feature.LAYERS in features else None

    def spec(self) -> SandboxSpec:
        """The sandbox as the step asks for it, with its packages."""
        layer = self._layered.layer() if self._layered else None
        return dataclasses.replace(self._here.task.spec, layer=layer)

    def command(self) -> Command:
        """A program that unpacks what comes over stdin."""
        here = self._here
        packages = self._layered.place_in_layer if self._layered else here.packages
        words = step_words(here.run, here.task, here.argv, packages)
        program = Path(unpack.__file__).read_text()
        return Command(
            [interpreter(here.task, here.argv), "-I", "-S", "-c", program, str(INSIDE / CODE), "--", *words],
            env={**step_variables(here.task, packages), **({FILES_VARIABLE: "yes"} if self._files else {})},
            stdin=True,
        )

    def output(self, process: Process, sandbox: Sandbox) -> Iterator[Output]:
        """The step's own output, taken out of what the command writes."""
        here = self._here
        if self._files:
            self._relay.files = cast("FileSandbox", sandbox)
        channels = StdioRelay(self._relay.accept, process.send)
        libraries = here.task.direct.libraries if here.task.direct else ""
        hosted = here.task.hosted
        archives = [here.archives.of_run(here.code(), hosted=hosted, s3=libraries, compressed=self._far)]
        archives.append(task_archive(here.files(), here.directory))
        if here.environment and not self._layered:
            archives.append(here.environment.archive())
        channels.send_ahead(framed(*archives))
        try:
            for output in process.output():
                if output.stream is Stream.STDERR:
                    yield output  # of the interpreter, before it is the guest
                    continue
                for kind, data in channels.feed(output.data):
                    yield Output(Stream.STDOUT if kind == stdio.OUT else Stream.STDERR, data)
        finally:
            channels.close()

    def close(self) -> None:
        """Nothing listens."""


def listen(path: Path, relay: TaskRelay, watcher: Watcher) -> socket.socket:
    """A socket whose connections the relay serves."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    # Connected to from inside by whoever the backend runs the step as.
    path.chmod(0o666)
    listener.listen(16)
    listener.setblocking(False)

    def accept() -> None:
        with contextlib.suppress(BlockingIOError):  # it is gone again
            relay.accept(listener.accept()[0])

    watcher.watch(listener, accept)
    return listener
