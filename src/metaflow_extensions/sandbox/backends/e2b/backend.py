"""Virtual machines of E2B, in its cloud, with nothing but a key: everything goes over a command's streams.

A sandbox is a Firecracker machine of its own, in which a step runs as root. It is made from a template, which
is built once for each image, number of cores and size of memory. Cores are 1 or an even number.

Default image: python:<the launcher's minor>-slim.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ...errors import UnsupportedOption
from ..default_image import DEFAULT_IMAGE
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..layers import add
from ..options import check_options
from ..warden import warden
from . import account, creation, leftovers
from .sandbox import E2BSandbox
from .templates import Templates, wanted

_templates = Templates()


class E2BBackend:
    """The account of E2B_API_KEY."""

    isolation = Isolation.VM
    default_image = DEFAULT_IMAGE
    features = frozenset(
        {
            Feature.REMOTE,
            Feature.STDIN,
            Feature.GET,
            Feature.IMAGE,
            Feature.NETWORK_OFF,
            Feature.NETWORK_PUBLIC,
            Feature.EGRESS_LIST,
            Feature.CPU_LIMIT,
            Feature.MEMORY_LIMIT,
            Feature.LAYERS,
            Feature.FILES,
        }
    )

    def check(self) -> None:
        """Raise BackendUnavailable with the cause and what mends it; no machine is started."""
        account.check()

    def open(self, spec: SandboxSpec) -> E2BSandbox:
        """Start a machine. Raises UnsupportedOption, BackendUnavailable, StartFailed or QuotaExceeded."""
        check_options(spec, self, "e2b")
        template = wanted(spec)
        account.key()
        if isinstance(template, str):
            sandbox = self._made(spec, template)
            return add(sandbox, spec.layer) if spec.layer else sandbox
        name = _templates.ensure(template, spec.tell)
        try:
            return self._made(spec, name)
        except UnsupportedOption as error:
            if not creation.lacks_template(error):
                raise
            # Somebody deleted it, or its build has failed elsewhere.
            return self._made(spec, _templates.ensure(template, spec.tell, anew=True))

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this account, also those whose launcher died."""
        return iter(account.listed(labels))

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process; idempotent."""
        leftovers.remove(sandbox_id)

    @staticmethod
    def _made(spec: SandboxSpec, template: str) -> E2BSandbox:
        name = f"sbx-{os.urandom(4).hex()}"
        guard = warden(leftovers.END)
        # Before anything is made: this process may be killed at any moment.
        guard.watch(name)
        return E2BSandbox(creation.create(spec, template, name, guard), spec, guard)
