"""Make an environment: wheels go into a sandbox, and an environment comes out."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ..backends.interface import Backend, Command, Feature, Process, SandboxSpec, Stream
from ..errors import PackagesFailed, SandboxError, StartFailed
from ..guest import conda as guest_conda
from ..guest import install
from ..packages.cache import PackageCache
from ..packages.fetch import fetch
from ..packages.receive import receive
from .archives import CHUNK
from .environments import Workshop
from .inside import ENVIRONMENT, INSIDE, interpreter
from .protocol import TaskSettings

UNPACKED = 20  # how many times as large as its packages an environment can be, on its way
ROOM = 1  # GiB besides, at least
GIB = 1024  # MiB
LIFETIME = 3600.0  # seconds that a sandbox may take to unpack packages
MAX_COMPLAINT = 4096  # bytes


def build(
    task: TaskSettings, argv: list[str], workshop: Workshop, cache: PackageCache, draft: Path, limit: int
) -> None:
    """Make the task's environment in ``draft``, an empty directory; at most ``limit`` bytes.

    Raises PackagesFailed, StartFailed when it was cancelled or killed, and what opening a sandbox raises.
    """
    assert task.packages is not None
    lock, conda = task.packages.lock, task.packages.conda
    files: dict[str, Path]
    program: ModuleType
    if lock:
        files = {path.name: path for path in fetch(lock.wheels, cache)}
        program, words = install, [lock.python, str(INSIDE / ENVIRONMENT)]
    else:
        assert conda is not None
        files = {name: Path(path) for name, path in conda.files.items()}
        missing = [name for name, path in conda.files.items() if not path or not Path(path).is_file()]
        if missing:
            raise PackagesFailed(
                f"Metaflow has not kept {', '.join(missing)} in the caches of micromamba and pip: remove the "
                f"environment {conda.id} from micromamba's, and Metaflow fetches it again"
            )
        files["program/install.py"] = Path(install.__file__)
        if conda.micromamba:
            files["program/micromamba"] = Path(conda.micromamba)
        program, words = guest_conda, [conda.id, conda.platform]
    facts = task.packages.facts
    size = sum(path.stat().st_size for path in files.values()) >> 20
    workshop.say(f"installing {len(facts['packages'])} packages ({size} MiB), Python {facts['python']}, once")
    python = interpreter(task, argv)
    command = [python, "-I", "-S", "-c", Path(str(program.__file__)).read_text(), *words]
    with workshop.sandbox(_spec(task.spec, workshop.backend, size if conda else 0)) as sandbox:
        try:
            process = sandbox.start(Command(command, stdin=True))
            workshop.running(process)
            code, complaint = receive_environment(process, files, draft, limit, links=conda is not None)
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
        raise PackagesFailed(f"the packages can't be installed with {python} ({code}): {complaint}")


def _spec(spec: SandboxSpec, backend: Backend, size: int) -> SandboxSpec:
    """A sandbox like the step's, without what the step may see, reach and use up.

    ``size`` is of the packages that are unpacked on its disk, in MiB.
    """
    # Some disks are whole GiB.
    disk = (UNPACKED * size // GIB + ROOM) * GIB if size and Feature.DISK_LIMIT in backend.features else None
    return replace(
        spec,
        cpu=None,
        memory=None,
        disk=disk,
        gpu=None,
        mounts=(),
        secrets=(),
        network="none" if Feature.NETWORK_OFF in backend.features else spec.network,
        lifetime=LIFETIME,
        # An engine's network goes with network="host" only.
        options={name: value for name, value in spec.options.items() if name != "network"},
    )


def receive_environment(
    process: Process, files: Mapping[str, Path], target: Path, limit: int, *, links: bool = False
) -> tuple[int, str]:
    """Send the files by their names, write what comes back below ``target``: (exit code, complaint)."""
    feeder = threading.Thread(target=_feed, args=(process, files), daemon=True)
    feeder.start()
    output = _Output(process)
    early: tarfile.TarError | None = None
    try:
        receive(io.BufferedReader(output, CHUNK), target, limit, links=links)
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


def _feed(process: Process, files: Mapping[str, Path]) -> None:
    gone = contextlib.suppress(BrokenPipeError, SandboxError)  # whoever ends early says why with an exit code
    try:
        with gone:
            for text, path in files.items():
                name = text.encode()
                process.send(install.HEAD.pack(len(name), path.stat().st_size) + name)
                with path.open("rb") as source:
                    while chunk := source.read(CHUNK):
                        process.send(chunk)
            process.send(install.HEAD.pack(0, 0))
    finally:
        # Also when a file can't be read any more: it would be waited for.
        with gone:
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
