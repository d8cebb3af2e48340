"""Virtual machines of microsandbox: a kernel of their own between a step and the host.

A step is root in its machine, which has a writable disk of its own and a virtual network that reaches
nothing, the public internet, or the hosts of a list. Nothing of the host is shared with it.

Default image: python:<the launcher's minor>-slim; one core, 4096 MiB of memory, 4096 MiB of disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from microsandbox import MicrosandboxError, Sandbox

from ...errors import BackendUnavailable, CommandTimeout, SandboxError
from ..async_calls import loop
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_state import LocalState
from ..options import check_options
from ..warden import warden
from . import place as places
from .creation import MARK, create, plan
from .leftovers import END, remove, scrub
from .network import Placeholders
from .sandbox import MicrosandboxSandbox

NAME = places.NAME
ANSWER = 30.0  # seconds
LONGEST = 24 * 3600.0  # seconds for a pull and a boot together; each has a limit of its own


class MicrosandboxBackend:
    """The cloud that the settings name, else virtual machines of this machine."""

    isolation = Isolation.VM
    features = frozenset(
        {
            Feature.STDIN,
            Feature.GET,
            Feature.IMAGE,
            Feature.NETWORK_OFF,
            Feature.NETWORK_PUBLIC,
            Feature.EGRESS_LIST,
            Feature.CPU_LIMIT,
            Feature.MEMORY_LIMIT,
            Feature.DISK_LIMIT,
            Feature.SECRETS,
        }
    )

    def check(self) -> None:
        """Raise BackendUnavailable unless the cloud answers, or a virtual machine may boot here."""
        place = places.find()
        place.prepare()
        if place.url:
            place.use()
            try:
                loop().call(lambda: Sandbox.list_with(limit=1), ANSWER)
            except (MicrosandboxError, CommandTimeout) as error:
                raise BackendUnavailable(
                    f"{place.label} does not answer: {error}; correct {places.URL} and {places.KEY}"
                ) from error

    def open(self, spec: SandboxSpec) -> MicrosandboxSandbox:
        """Pull the image where it is not there yet, and boot.

        Raises UnsupportedOption, BackendUnavailable, QuotaExceeded or StartFailed; then nothing is left.
        """
        check_options(spec, self, NAME)
        place = places.find()
        secrets = Placeholders(spec.secrets)
        planned = plan(spec, secrets)
        place.prepare()
        place.use()
        sandbox_id = LocalState.random_id()
        guard = warden(END)
        # Before anything is made: this process may be killed at any moment.
        guard.watch(sandbox_id)
        try:
            box = loop().call(lambda: create(place, sandbox_id, spec, planned), LONGEST)
        except BaseException:
            # Where it can't be removed now, the guard tries again when this process is gone.
            with contextlib.suppress(SandboxError):
                remove(place, sandbox_id)
                if spec.secrets:
                    scrub(place)
                guard.forget(sandbox_id)
            raise
        return MicrosandboxSandbox(place, box, sandbox_id, spec, secrets, guard)

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user, in a cloud of this account, also those whose launcher died."""
        place = places.find()
        place.use()
        try:
            return iter(loop().call(lambda: _listed(labels), ANSWER))
        except MicrosandboxError as error:
            raise BackendUnavailable(f"{place.label} does not list its sandboxes: {error}") from error

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process of this user; idempotent."""
        if LocalState.is_id(sandbox_id):
            place = places.find()
            remove(place, sandbox_id)
            scrub(place)


async def _listed(labels: Mapping[str, str]) -> list[SandboxInfo]:
    found: list[SandboxInfo] = []
    cursor: str | None = None
    while True:
        page = await Sandbox.list_with(labels={**labels, MARK: "1"}, cursor=cursor)
        found += [_described(handle, labels) for handle in page.sandboxes]
        cursor = page.next_cursor
        if cursor is None:
            return found


def _described(handle: Any, asked: Mapping[str, str]) -> SandboxInfo:
    # A cloud may keep what a sandbox was made of to itself.
    labels = {**asked, **(handle.config().get("labels") or {})}
    labels.pop(MARK, None)
    return SandboxInfo(handle.name, labels, (handle.created_at or 0.0) / 1000)
