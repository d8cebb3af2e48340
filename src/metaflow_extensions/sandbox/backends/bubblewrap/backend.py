"""Sandboxes made of Linux namespaces by bubblewrap: no daemon, no image, no root, a start in milliseconds.

A step sees a read-only /usr, the launcher's Python environment and what was mounted, and can write
only below /sandbox: HOME is /sandbox/home, the working directory /sandbox/work, and /tmp and
/var/tmp are /sandbox/tmp. It shares the kernel with the host and nothing else: no network unless
asked for, no capability, no uid that owns anything, and a filter on system calls.

Defaults: 1024 MiB of disk, 1024 processes and threads, 64 MiB of /dev/shm (less when the disk is
smaller, and beside it), no core dumps. Each started command gets fresh writable space and a
process count of its own; ``memory`` is enforced for the whole sandbox where a cgroup can be made,
otherwise for the address space of each process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from ...errors import BackendUnavailable, SandboxLost, StartFailed
from ..cgroups import available as cgroup_limits
from ..interface import Command, Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_state import LocalState, base_directory
from ..options import check_options, refuse_backend_options
from ..warden import warden
from . import binary, diagnosis
from .leftovers import END, end
from .limits import counts_processes_apart
from .process import BubblewrapProcess
from .sandbox import BubblewrapSandbox
from .targets import check_source, checked

__all__ = ["BubblewrapBackend", "BubblewrapProcess", "BubblewrapSandbox"]

_NAME = "bubblewrap"


class BubblewrapBackend:
    """The embedded default on Linux."""

    isolation = Isolation.CONTAINER

    def __init__(self) -> None:
        self.features = _features()

    def check(self) -> None:
        """Run one command in a sandbox. Raises BackendUnavailable with the cause and what mends it."""
        host = diagnosis.Host.here()
        problem = diagnosis.foreseen(host)
        if problem:
            raise BackendUnavailable(problem)
        sandbox = self.open(SandboxSpec())
        try:
            process = sandbox.start(Command(["true"]))
            said = b"".join(chunk.data for chunk in process.output()).decode(errors="replace")
            code = process.wait()
        except (StartFailed, SandboxLost) as error:
            raise BackendUnavailable(diagnosis.explain(str(error), host)) from error
        finally:
            sandbox.close()
        if code:
            raise BackendUnavailable(diagnosis.explain(said, host))

    def open(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """Prepare a sandbox; nothing runs yet.

        Raises UnsupportedOption, BackendUnavailable, or StartFailed on a full disk.
        """
        check_options(spec, self, _NAME)
        refuse_backend_options(spec, _NAME)
        roots = spec.python.roots if spec.python else ()
        for number, mount in enumerate(spec.mounts):
            checked(mount.target, [*spec.mounts[:number], *spec.mounts[number + 1 :]], roots)
            check_source(mount, foreign_uid=os.geteuid() == 0)
        bwrap = binary.find()
        with _in_temporary_directory():
            base = base_directory()
            sandbox_id = LocalState.unused_id(base)
        guard = warden(END, str(base))
        # Before anything is made: this process may be killed at any moment.
        guard.watch(sandbox_id)
        try:
            with _in_temporary_directory():
                state = LocalState.create(base, spec.labels, sandbox_id)
            try:
                return BubblewrapSandbox(bwrap, spec, state, guard)
            except BaseException:
                state.destroy()
                raise
        except BaseException:
            guard.forget(sandbox_id)
            raise

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user, also those whose launcher died and left only their directory."""
        return LocalState.described(base_directory(), labels)

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process of this user; idempotent."""
        end(str(base_directory()), sandbox_id)


@contextlib.contextmanager
def _in_temporary_directory() -> Iterator[None]:
    """Say of what the system refuses where it was to be made."""
    try:
        yield
    except OSError as error:
        raise StartFailed(
            f"no sandbox can be made in the temporary directory: {error}; free some space there, "
            "or set TMPDIR"
        ) from error


def _features() -> frozenset[Feature]:
    """What can be enforced on this machine."""
    can = {Feature.MOUNT, Feature.HOST_PYTHON, Feature.STDIN, Feature.NETWORK_OFF, Feature.NETWORK_HOST}
    can |= {Feature.DISK_LIMIT, Feature.MEMORY_LIMIT}
    if "cpu" in cgroup_limits():
        can.add(Feature.CPU_LIMIT)
    if "processes" in cgroup_limits() or counts_processes_apart():
        can.add(Feature.PROCESS_LIMIT)
    return frozenset(can)
