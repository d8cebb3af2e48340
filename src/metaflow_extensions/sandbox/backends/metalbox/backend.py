"""Processes on macOS with Apple silicon, as services of MetalBox in its sandbox profile: Metal works in them.

The weakest wall of all backends: a step is a process of the user. It reads what any program may read
but the user's home directory, writes to directories of its own and /tmp, and has the network cut or
shared; unix sockets stay open to it. It has a clean environment, and everything comes over its stdin.

``memory`` is looked at every 5 seconds, the runner's own 10 MiB included: what grows faster passes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...errors import BackendUnavailable, SandboxLost, StartFailed
from ..interface import Command, Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_state import LocalState, base_directory
from ..options import check_options
from ..warden import warden
from . import server
from .leftovers import END, end
from .options import Options
from .sandbox import MetalboxSandbox

__all__ = ["MetalboxBackend"]

_NAME = "metalbox"


class MetalboxBackend:
    """A MetalBox server for each sandbox, started on demand."""

    isolation = Isolation.PROCESS
    features = frozenset(
        {Feature.STDIN, Feature.HOST_PYTHON, Feature.NETWORK_OFF, Feature.NETWORK_HOST, Feature.MEMORY_LIMIT}
    )

    def check(self) -> None:
        """Run one command. Raises BackendUnavailable with the cause and what mends it."""
        try:
            sandbox = self.open(SandboxSpec())
            try:
                code = sandbox.start(Command(["true"])).wait()
            finally:
                sandbox.close()
        except (StartFailed, SandboxLost) as error:
            raise BackendUnavailable(f"MetalBox can't run a service here: {error}") from error
        if code:
            raise BackendUnavailable(f"MetalBox can't run a service here: 'true' ended with {code}")

    def open(self, spec: SandboxSpec) -> MetalboxSandbox:
        """Start a server. Raises UnsupportedOption, BackendUnavailable or StartFailed."""
        check_options(spec, self, _NAME)
        options = Options.of(spec.options)
        binary = server.find()
        base = base_directory().resolve()
        sandbox_id = LocalState.unused_id(base)
        guard = warden(END, str(base))
        # Before anything is made: this process may be killed at any moment.
        guard.watch(sandbox_id)
        try:
            state = LocalState.create(base, spec.labels, sandbox_id)
            sandbox = MetalboxSandbox(binary, spec, options, state, guard)
        except BaseException:
            end(str(base), sandbox_id)
            guard.forget(sandbox_id)
            raise
        if spec.tell:
            spec.tell(
                f"MetalBox's server for {sandbox_id} listens on port {sandbox.server.port} of all interfaces "
                f"and asks for no password; {server.STRICT}=1 refuses this backend instead"
            )
        return sandbox

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user, also those whose launcher died."""
        return LocalState.described(base_directory().resolve(), labels)

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process of this user; idempotent."""
        end(str(base_directory().resolve()), sandbox_id)
