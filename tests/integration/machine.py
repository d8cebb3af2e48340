"""What stands for a virtual machine in the stand-ins of microVM services: a directory, and commands in it.

    machine = Machine(directory, network=False, memory=512)
    running = await machine.start(["python3", "-c", "…"], env={}, stdin=True)
    running.stdin.write(b"…"); await running.stdout.read(99); code = await running.wait()
    machine.root / "tmp" / "file"          # its files, which last from one command to the next
    await machine.close()

Each command runs in a bubblewrap of its own, as user 0 of a user namespace, with namespaces of its own for
processes and (without ``network``) for the network, and nothing in its environment but what is given. The
test image's files are there read-only (this machine's /usr where there is no test image), all else belongs to
the machine and can be written to. With limits, all commands share one cgroup.

A machine is for one event loop, in a process that runs ``bury_orphans()`` beside it: bubblewrap leaves its
sandbox's first process for others to wait for. It has no kernel of its own: what only that gives can't be
tested with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from metaflow_extensions.sandbox.backends.bubblewrap.binary import find
from metaflow_extensions.sandbox.backends.cgroups import Cgroup, available

from .images import tree, why_no_images

OWN = ("root", "home", "tmp", "var", "run", "mnt", "opt", "srv", "work")  # not taken from the image
PLACES = (*OWN, "var/tmp")
DEVICES = ("dev", "proc", "sys")
ROOTS_OF_HOST = ("usr", "bin", "sbin", "lib", "lib64", "etc/alternatives", "etc/ssl", "etc/ld.so.cache")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
STARTED: set[int] = set()  # whom asyncio waits for


def not_limited() -> Mapping[str, str]:
    """Tests of the contract that fail over machines of a user who can make no cgroup, and why."""
    if "memory" in available():
        return {}
    names = "test_memory_of_one_process_is_limited", "test_memory_of_all_processes_together_is_limited"
    return dict.fromkeys(names, "the stand-in limits memory with a cgroup, and none can be made here")


class Machine:
    """One machine; ``memory`` is in MiB, ``cpus`` in cores, both for all its commands together.

    With a ``disk`` of so many MiB, each command has one of its own, in memory that counts as the machine's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        network: bool = False,
        memory: int | None = None,
        cpus: float | None = None,
        disk: int | None = None,
    ) -> None:
        self.directory = directory
        self.root = directory / "root"
        self._network = network
        self._disk = disk
        memory = memory + disk if memory and disk else memory
        self._running: set[Running] = set()
        self._cgroup: Cgroup | None = None
        for name in PLACES:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("tmp", "var/tmp"):
            (self.root / name).chmod(0o1777)
        limits = {
            "memory_mib": memory if "memory" in available() else None,
            "cpu_cores": cpus if "cpu" in available() else None,
        }
        if any(limits.values()):
            name = f"machine-{directory.name}"
            self._cgroup = Cgroup.create(name, processes=None, **limits)  # type: ignore[arg-type]  # one of each

    async def start(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str = "/root", stdin: bool = False
    ) -> Running:
        """Start a command; one that cannot be found ends with 1 and the reason of bwrap on its stderr."""
        told, tell = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                str(find()),
                *("--args", str(told), "--", *argv),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(env),
                cwd="/",
                start_new_session=True,
                pass_fds=[told],
            )
            STARTED.add(process.pid)
            running = Running(process)
            self._running.add(running)
            # Before it reads what to set up: what it starts then is limited, too.
            if self._cgroup:
                self._cgroup.add(process.pid)
            os.write(tell, b"".join(os.fsencode(word) + b"\0" for word in self._words(cwd)))
        finally:
            os.close(told)
            os.close(tell)
        return running

    async def close(self) -> None:
        """Kill everything and remove every trace; idempotent."""
        for running in list(self._running):
            running.kill()
            await running.wait()
        self._running.clear()
        if self._cgroup:
            self._cgroup.remove()
        if self.directory.exists():
            _unlock(self.directory)
            shutil.rmtree(self.directory)

    def _words(self, cwd: str) -> list[str]:
        words = [
            "--unshare-user",
            "--uid",
            "0",
            "--gid",
            "0",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
        ]
        words += ["--die-with-parent", "--hostname", "machine"]
        if self._disk:
            words += ["--size", str(self._disk << 20), "--tmpfs", "/"]
            words += [word for name in PLACES for word in ("--perms", "1777", "--dir", f"/{name}")]
        else:
            words += ["--bind", str(self.root), "/"]
        if not self._network:
            words.append("--unshare-net")
        return [*words, *_image(), "--dev", "/dev", "--proc", "/proc", "--chdir", cwd]


class Running:
    """A command of a machine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.stdin = process.stdin
        assert process.stdout
        assert process.stderr
        self.stdout, self.stderr = process.stdout, process.stderr
        self._process = process

    @property
    def code(self) -> int | None:
        """The exit code once it has ended; death by signal n is 128 + n."""
        code = self._process.returncode
        return code if code is None or code >= 0 else 128 - code

    async def wait(self) -> int:
        """The exit code; read its output meanwhile, or it may never end."""
        await self._process.wait()
        STARTED.discard(self.pid)
        assert self.code is not None
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it and all that it started; another signal goes to the command alone. Idempotent."""
        if self.code is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                self._stop()
                # The sandbox's first process takes all others along; set up half, it would outlive bwrap.
                for first in _children(self.pid):
                    os.kill(first, number)
                os.kill(self.pid, number)
            else:
                for pid in self._command():
                    os.kill(pid, number)

    def _stop(self) -> None:
        """Keep bwrap from starting anything more."""
        os.kill(self.pid, signal.SIGSTOP)
        while _state(self.pid) not in "TZX":
            pass

    def _command(self) -> Iterator[int]:
        """The command itself, below the sandbox's first process, which is below bwrap."""
        for first in _children(self.pid):
            yield from list(_children(first))[:1]


async def bury_orphans() -> None:
    """Wait for what bubblewrap leaves, for ever; this process becomes the parent of its orphans."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    while True:
        for pid in list(_children(os.getpid())):
            if pid not in STARTED and _state(pid) == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        await asyncio.sleep(0.05)


def _state(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return "X"


def _image() -> Iterator[str]:
    """The test image's directories; without images, what programs of this machine need."""
    if why_no_images():
        for name in ROOTS_OF_HOST:
            yield from _shown(Path("/", name), name)
        return
    for entry in sorted(tree().iterdir()):
        if entry.name not in (*OWN, *DEVICES):
            yield from _shown(entry, entry.name)


def _shown(source: Path, name: str) -> Iterator[str]:
    if source.is_symlink():
        yield from ("--symlink", str(source.readlink()), f"/{name}")
    elif source.exists():
        yield from ("--ro-bind", str(source), f"/{name}")


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in list(Path(f"/proc/{pid}/task").iterdir()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of a thread that ends
                yield from map(int, (task / "children").read_text().split())


def _unlock(directory: Path) -> None:
    for place, names, _ in os.walk(directory):
        for name in names:
            if not Path(place, name).is_symlink():
                Path(place, name).chmod(0o700)
