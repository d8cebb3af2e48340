"""The arguments of bwrap for one command: what it may see, what it may do, and what it is told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import StartFailed
from ..interface import Command, SandboxSpec
from ..seccomp import filter_program
from .entries import Entry, Kind, View, mirrored, with_parents
from .identity import Identity
from .system import proc_entries, system_entries
from .targets import HOME, TMP, WORK, mount_entries, relocated

DISK_MIB = 1024  # writable space when the step does not say
_SHARED_MEMORY_MIB = 64  # /dev/shm, as in container engines; at most the disk
_MIB = 1 << 20
_LAYOUT = (
    *(Entry(Kind.DIRECTORY, "0777", str(place)) for place in (HOME, WORK, TMP)),
    Entry(Kind.LINK, "sandbox/tmp", "/tmp"),
    Entry(Kind.LINK, "../sandbox/tmp", "/var/tmp"),
)


class Attachments:
    """Anonymous files that bwrap reads by number; a context manager."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __enter__(self) -> Attachments:
        return self

    def __exit__(self, *_: object) -> None:
        for number in self.numbers:
            os.close(number)

    def add(self, content: bytes) -> str:
        """Number of a new file of that content, as an argument."""
        number = os.memfd_create("metaflow-sandbox")
        self.numbers.append(number)
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(number, 0, os.SEEK_SET)
        return str(number)


@dataclass(frozen=True)
class Profile:
    """What one sandbox's commands are given; ``files`` are (host copy, target) of what was put."""

    spec: SandboxSpec
    identity: Identity
    files: Sequence[tuple[Path, PurePosixPath]] = ()

    @property
    def network(self) -> bool:
        """Whether the host's network is shared."""
        return self.spec.network == "host"

    @property
    def disk(self) -> int:
        """Writable space in MiB."""
        return self.spec.disk or DISK_MIB

    def arguments(self, attachments: Attachments) -> list[str]:
        """Everything but the command's own environment and directory; the walls come before the windows."""
        return [
            *("--die-with-parent", "--new-session", "--hostname", "sandbox"),
            *("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
            *(() if self.network else ("--unshare-net",)),
            *self.identity.flags,
            *("--seccomp", attachments.add(filter_program())),
            *self._file_system(attachments),
        ]

    def environment(self, command: Command) -> dict[str, str]:
        """The command's whole environment; what it sets itself goes before the backend's own."""
        search = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        if self.spec.python:
            search.insert(0, str(self.spec.python.executable.parent))
        own = {"PATH": ":".join(search), "HOME": str(HOME), "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
        return {**own, **command.env}

    def command_arguments(self, command: Command) -> list[str]:
        """Directory and environment. Raises StartFailed for what can't be started: a missing program, say."""
        environment = self.environment(command)
        directory = command.cwd or WORK
        for text in (*command.argv, *environment, *environment.values(), str(directory)):
            if "\0" in text:
                raise StartFailed("a command, its environment and its directory can't hold NUL characters")
        if not command.argv or any(not name or "=" in name for name in environment):
            raise StartFailed(
                "a command needs a program, and names of its environment can't be empty or hold '='"
            )
        view = View(self._entries())
        if not directory.is_absolute() or not view.is_directory(directory):
            raise StartFailed(
                f"there is no directory {directory} in the sandbox: mount one, or leave cwd out"
            )
        if not view.program(command.argv[0], environment["PATH"].split(":"), directory):
            raise StartFailed(
                f"there is no program {command.argv[0]!r} in the sandbox (PATH={environment['PATH']}): "
                "install it below /usr, mount it, or name it by its full path"
            )
        settings = [word for name, value in environment.items() for word in ("--setenv", name, value)]
        return ["--clearenv", "--chdir", str(directory), *settings]

    def _entries(self) -> Iterator[Entry]:
        yield from system_entries(self.network)
        yield from _LAYOUT
        if self.spec.python:
            for root in self.spec.python.roots:
                yield from mirrored(root, str(relocated(PurePosixPath(root))))
        yield from mount_entries(self.spec.mounts)
        for copy, target in self.files:
            yield Entry(Kind.READ_ONLY, str(copy), str(target))

    def _file_system(self, attachments: Attachments) -> Iterator[str]:
        shared_memory = min(self.disk, _SHARED_MEMORY_MIB)
        yield from ("--proc", "/proc")
        # A normal user's step could write the memory of bwrap's own process inside, and its exit code.
        yield from ("--size", "4096", "--perms", "0555", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1")
        for entry in proc_entries():
            yield from _words(entry, attachments)
        yield from ("--dev", "/dev")
        yield from ("--size", str(shared_memory * _MIB), "--perms", "1777", "--tmpfs", "/dev/shm")
        yield from ("--size", str(self.disk * _MIB), "--perms", "0755", "--tmpfs", "/sandbox")
        for name, content in self._accounts().items():
            yield from ("--perms", "0444", "--file", attachments.add(content.encode()), f"/etc/{name}")
        for entry in with_parents(self._entries(), (HOME, WORK, TMP)):
            yield from _words(entry, attachments)
        yield from ("--remount-ro", "/dev", "--remount-ro", "/")

    def _accounts(self) -> dict[str, str]:
        uid, gid = self.identity.uid, self.identity.gid
        files = {
            "passwd": f"root:x:0:0::/:/bin/false\nsandbox:x:{uid}:{gid}::{HOME}:/bin/sh\n",
            "group": f"root:x:0:\nsandbox:x:{gid}:\n",
        }
        # With the host's network its own file is shown.
        return files if self.network else {**files, "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n"}


def _words(entry: Entry, attachments: Attachments) -> Iterator[str]:
    if entry.kind is Kind.DIRECTORY:
        yield from ("--perms", entry.source, entry.kind.value, entry.target)
    elif entry.kind is Kind.COPY:
        content = Path(entry.source).read_bytes()
        yield from ("--perms", "0444", entry.kind.value, attachments.add(content), entry.target)
    else:
        yield from (entry.kind.value, entry.source, entry.target)
