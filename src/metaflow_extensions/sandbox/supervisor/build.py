"""Make an environment: wheels go into a sandbox, and an environment comes out."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..backends.interface import Backend, Command, Feature, Process, SandboxSpec, Stream
from ..errors import PackagesFailed, SandboxError, StartFailed
from ..guest import install
from ..packages.cache import PackageCache
from ..packages.fetch import fetch
from ..packages.receive import receive
from .archives import CHUNK
from .environments import Workshop
from .inside import ENVIRONMENT, INSIDE, interpreter
from .protocol import TaskSettings

LIFETIME = 3600.0  # seconds that a sandbox may take to unpack packages
MAX_COMPLAINT = 4096  # bytes


def build(
    task: TaskSettings, argv: list[str], workshop: Workshop, cache: PackageCache, draft: Path, limit: int
) -> None:
    """Make the task's environment in ``draft``, an empty directory; at most ``limit`` bytes.

    Raises PackagesFailed, StartFailed when it was cancelled or killed, and what opening a sandbox raises.
    """
    assert task.packages is not None
    lock = task.packages.lock
    wheels = fetch(lock.wheels, cache)
    size = sum(path.stat().st_size for path in wheels) >> 20
    workshop.say(f"installing {len(wheels)} packages ({size} MiB) for Python {lock.python}, once")
    program = Path(install.__file__).read_text()
    words = [interpreter(task, argv), "-I", "-S", "-c", program, lock.python, str(INSIDE / ENVIRONMENT)]
    with workshop.sandbox(_spec(task.spec, workshop.backend)) as sandbox:
        try:
            process = sandbox.start(Command(words, stdin=True))
            workshop.running(process)
            if workshop.cancelled():
                process.kill()
            code, complaint = receive_environment(process, wheels, draft, limit)
        finally:
            sandbox.close()
    if workshop.cancelled():
        raise StartFailed("the task was cancelled while its packages were installed")
    if code == install.REFUSED:
        raise PackagesFailed(
            f"{complaint}: python= and image= choose the Python inside, METAFLOW_SANDBOX_TARGET_PLATFORM "
            "what packages are resolved for"
        )
    if code > 128:
        raise StartFailed(f"what installs the packages was ended by signal {code - 128}: {complaint}")
    if code:
        raise PackagesFailed(f"the packages can't be installed with {words[0]} ({code}): {complaint}")


def _spec(spec: SandboxSpec, backend: Backend) -> SandboxSpec:
    """A sandbox like the step's, without what the step may see, reach and use up."""
    return replace(
        spec,
        cpu=None,
        memory=None,
        disk=None,
        gpu=None,
        mounts=(),
        network="none" if Feature.NETWORK_OFF in backend.features else spec.network,
        lifetime=LIFETIME,
        # An engine's network goes with network="host" only.
        options={name: value for name, value in spec.options.items() if name != "network"},
    )


def receive_environment(
    process: Process, wheels: Iterable[Path], target: Path, limit: int
) -> tuple[int, str]:
    """Send the wheels, write what comes back below ``target``: (exit code, what it says on stderr)."""
    feeder = threading.Thread(target=_feed, args=(process, wheels), daemon=True)
    feeder.start()
    output = _Output(process)
    early: tarfile.TarError | None = None
    try:
        receive(io.BufferedReader(output, CHUNK), target, limit)
    except tarfile.TarError as error:
        early = error
    except BaseException:
        process.kill()
        output.drain()
        process.wait()
        raise
    output.drain()
    code = process.wait()
    feeder.join()
    complaint = output.complaint.decode(errors="replace").strip()
    if early and not code:
        raise PackagesFailed(f"the packages did not arrive whole: {early}") from early
    return code, complaint


def _feed(process: Process, wheels: Iterable[Path]) -> None:
    # Whoever ends early says why with an exit code.
    with contextlib.suppress(BrokenPipeError, SandboxError):
        for path in wheels:
            name = path.name.encode()
            process.send(install.HEAD.pack(len(name), path.stat().st_size) + name)
            with path.open("rb") as source:
                while chunk := source.read(CHUNK):
                    process.send(chunk)
        process.send(install.HEAD.pack(0, 0))
        process.send(b"")


class _Output(io.RawIOBase):
    """A process's standard output as a file; what it says on standard error is kept."""

    def __init__(self, process: Process) -> None:
        self._chunks = iter(process.output())
        self._pending = memoryview(b"")
        self.complaint = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._pending:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            if chunk.stream is Stream.STDERR:
                self.complaint = (self.complaint + chunk.data)[-MAX_COMPLAINT:]
            else:
                self._pending = memoryview(chunk.data)
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

    def drain(self) -> None:
        """Take in what is left."""
        buffer = memoryview(bytearray(CHUNK))
        while self.readinto(buffer):
            pass
