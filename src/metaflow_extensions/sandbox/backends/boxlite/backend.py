"""Virtual machines of BoxLite: on this machine with KVM or Apple's hypervisor, or on a server of a team.

A box is a virtual machine of its own with a container in it, in which a step runs as root. The network is off
or the step is refused: with it on, ``host.boxlite.internal`` leads to the host's loopback past any list of
allowed hosts. Cores are whole ones, and ``disk`` whole GiB.

Default image: python:<the launcher's minor>-slim; a path is an OCI layout directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from boxlite import BoxliteError

from ...errors import BackendUnavailable, CommandTimeout, StartFailed
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_state import LocalState
from ..options import check_options
from ..warden import warden
from . import boot
from .leftovers import END, end, remember, state_directory
from .machine import machine
from .runtime import ANSWER, Place, runtime
from .sandbox import BoxliteSandbox


class BoxliteBackend:
    """One runtime for each process, in a home or on the server of BOXLITE_URL."""

    isolation = Isolation.VM
    features = frozenset(
        {
            Feature.STDIN,
            Feature.GET,
            Feature.IMAGE,
            Feature.NETWORK_OFF,
            Feature.CPU_LIMIT,
            Feature.MEMORY_LIMIT,
            Feature.DISK_LIMIT,
        }
    )

    def check(self) -> None:
        """Raise BackendUnavailable with the cause and what mends it; no machine is started."""
        found = runtime()
        try:
            found.calls.call(found.infos, ANSWER)
        except (BoxliteError, CommandTimeout) as error:
            raise BackendUnavailable(
                f"BoxLite {found} does not answer as it should ({error}): look whether 'boxlite serve' runs "
                "there, and at BOXLITE_API_KEY"
            ) from error

    def open(self, spec: SandboxSpec) -> BoxliteSandbox:
        """Start a machine. Raises UnsupportedOption, BackendUnavailable, StartFailed or QuotaExceeded."""
        check_options(spec, self, "boxlite")
        options = machine(spec, remote=Place.chosen().url is not None)
        found = runtime()
        if found.home and options.image:
            boot.pull(found, options.image, spec.tell or (lambda _line: None))
        base = state_directory()
        sandbox_id = LocalState.unused_id(base)
        guard = warden(END, str(base))
        # Before anything is made: this process may be killed at any moment.
        guard.watch(sandbox_id)
        try:
            state = LocalState.create(base, spec.labels, sandbox_id)
            remember(state, Place(found.url, found.prefix, found.home))
            box, pid = boot.boot(found, options, sandbox_id)
            return BoxliteSandbox(found, box, spec, state, guard, pid)
        except BaseException as error:
            left = boot.undo(found, base, sandbox_id)
            if left:
                raise StartFailed(f"{error}; {left}") from error
            guard.forget(sandbox_id)
            raise

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user and this machine, also those whose launcher died."""
        return LocalState.described(state_directory(), labels)

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process of this user; idempotent."""
        end(str(state_directory()), sandbox_id)
