"""Sandboxes of Daytona's cloud, or of an installation of one's own: containers reached over its API.

The step sees the image's files and may write to them. Nothing is mounted: the flow's code, its artifacts and
metadata go over the command's stdin and stdout, which calls of the API carry.

Default image: python:<the launcher's minor>-slim.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import daytona

from ...errors import CommandTimeout
from ..default_image import DEFAULT_IMAGE
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..options import check_options
from ..warden import warden
from . import failures, leftovers
from .client import ANSWER, call, client
from .creation import create
from .parameters import LABEL, OURS, next_size, parameters
from .sandbox import DaytonaSandbox, opened
from .snapshots import Snapshots

NAME = "daytona"
_snapshots = Snapshots()


class DaytonaBackend:
    """What DAYTONA_API_KEY and, unless it is Daytona's own cloud, DAYTONA_API_URL lead to."""

    isolation = Isolation.CONTAINER
    default_image = DEFAULT_IMAGE
    features = frozenset(
        {
            Feature.REMOTE,
            Feature.FILES,
            Feature.LAYERS,
            Feature.STDIN,
            Feature.GET,
            Feature.IMAGE,
            Feature.NETWORK_OFF,
            Feature.NETWORK_PUBLIC,
            Feature.EGRESS_LIST,
            Feature.CPU_LIMIT,
            Feature.MEMORY_LIMIT,
            Feature.DISK_LIMIT,
        }
    )

    def next_size(self, limit: str, amount: float) -> int:
        """The least that Daytona has for at least that much."""
        return next_size(limit, amount)

    def check(self) -> None:
        """Ask for a list. Raises BackendUnavailable with the setting to mend, or QuotaExceeded."""
        _listed({}, most=1)

    def open(self, spec: SandboxSpec) -> DaytonaSandbox:
        """Make a sandbox that runs.

        Raises UnsupportedOption, BackendUnavailable, QuotaExceeded or StartFailed; then there is none.
        """
        check_options(spec, self, NAME)
        return _snapshots.open(spec, made) if spec.layer else made(spec, None)

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this key's organization; those made elsewhere appear after some seconds."""
        found = {str(item.name) for item in _listed({LABEL + key: value for key, value in labels.items()})}
        own = {name for name, its in opened().items() if labels.items() <= its.items()}
        for name in sorted(found | own):
            try:
                # Lists lag: what has been removed meanwhile is in them, too.
                sandbox = leftovers.find(name)
            except (daytona.DaytonaError, CommandTimeout) as error:
                raise failures.refused(error) from error
            if sandbox is not None:
                yield _described(sandbox)

    def destroy(self, sandbox_id: str) -> None:
        """Have a sandbox removed, whoever made it; idempotent."""
        leftovers.end(sandbox_id)


def made(spec: SandboxSpec, user: str | None) -> DaytonaSandbox:
    """A sandbox without a layer, for a user other than Daytona's own choice."""
    wanted = parameters(f"metaflow-{os.urandom(8).hex()}", spec, user)
    sdk = client()
    guard = warden(leftovers.END)
    return DaytonaSandbox(create(sdk, wanted, spec.tell, guard), spec, guard)


def _listed(labels: Mapping[str, str], most: int | None = None) -> list[Any]:
    sdk = client()
    query = daytona.ListSandboxesQuery(labels=dict(labels) or None, limit=most)
    try:
        listed = call(
            lambda: list(itertools.islice(sdk.list(query, request_timeout=ANSWER), most)), 4 * ANSWER
        )
    except (daytona.DaytonaError, CommandTimeout) as error:
        raise failures.refused(error) from error
    return [item for item in listed if item.labels.get(OURS) == item.name]


def _described(sandbox: Any) -> SandboxInfo:
    labels = {
        name.removeprefix(LABEL): value for name, value in sandbox.labels.items() if name.startswith(LABEL)
    }
    created = datetime.datetime.fromisoformat(str(sandbox.created_at).replace("Z", "+00:00"))
    return SandboxInfo(str(sandbox.name), labels, created.timestamp())
