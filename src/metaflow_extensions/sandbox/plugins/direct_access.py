"""Whether a step's sandbox reads and writes the flow's datastore itself, and what it is given for that."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metaflow import metaflow_config
from metaflow.metaflow_config_funcs import from_conf

from ..backends.interface import Backend, Feature
from ..errors import UnsupportedOption
from ..relay.drafts import TASK_VARIABLE
from ..relay.policy import TaskIdentity
from ..supervisor.protocol import DirectSettings

if TYPE_CHECKING:
    from ..supervisor.s3_access import S3Access, S3Place

NETWORKS = {Feature.NETWORK_PUBLIC: "public", Feature.NETWORK_HOST: "host"}
# Metaflow's settings of S3 that a task needs as the launcher has them.
CARRIED = (
    "S3_SERVER_SIDE_ENCRYPTION",
    "S3_RETRY_COUNT",
    "S3_TRANSIENT_RETRY_COUNT",
    "S3_LOG_TRANSIENT_RETRIES",
    "DATATOOLS_S3ROOT",
)
R2_WORKERS = 8  # R2 answers more at once with errors; Metaflow's own number is 64


@dataclass(frozen=True)
class DirectAccess:
    """A step's way to the datastore: its network, what goes into the sandbox, and the step's variables."""

    network: str | tuple[str, ...]
    settings: DirectSettings
    variables: Mapping[str, str]

    def with_libraries(self) -> DirectAccess:
        """The same, with a boto3 of its own."""
        return replace(self, settings=replace(self.settings, libraries=libraries()))

    def of_task(self, task: TaskIdentity) -> dict[str, str]:
        """The variables of one task."""
        return {**self.variables, TASK_VARIABLE: f"{task.flow}/{task.key}"}


class DatastoreAccess:
    """The accesses of one run's steps; ``datastore`` is (type, root)."""

    def __init__(self, flow: str, run: str, datastore: tuple[str, str]) -> None:
        self._flow, self._run = flow, run
        self._kind, self._root = datastore
        self._access: S3Access | None = None
        self._checked = False

    def choose(
        self, step: str, attributes: Mapping[str, Any], backend: Backend, name: str
    ) -> DirectAccess | None:
        """The step's own access, None for the relay.

        Raises UnsupportedOption where it was asked for and cannot be, and BackendUnavailable where the
        datastore cannot be used.
        """
        asked = attributes["datastore_access"]
        if asked == "direct":
            self._refuse(attributes["network"], backend, name)
        elif asked == "relay" or not self._is_default(attributes["network"], backend):
            return None
        from ..supervisor.s3_check import check

        access = self._s3()
        if not self._checked:
            check(access, TaskIdentity(self._flow, self._run, step, "0", 0))
            self._checked = True
        place = access.place()
        return DirectAccess(
            reaching(attributes["network"], place, self._root),
            DirectSettings(
                libraries="" if Feature.HOST_PYTHON in backend.features else libraries(),
                certificates=place.certificates,
                configuration={**({"region": place.region} if place.region else {}), **place.options},
            ),
            variables(place, self._root),
        )

    def _s3(self) -> S3Access:
        if self._access is None:
            # boto3 takes its time to import: only for who needs it.
            from ..supervisor.s3_access import S3Access

            self._access = S3Access(self._root)
        return self._access

    def _is_default(self, network: Any, backend: Backend) -> bool:
        if Feature.REMOTE not in backend.features or self._kind != "s3" or network == "none":
            return False
        if network is None and Feature.EGRESS_LIST not in backend.features:
            return False  # the step did not ask for the network: it gets none
        return not is_own(self._s3().place().host)

    def _refuse(self, network: Any, backend: Backend, name: str) -> None:
        if self._kind in ("azure", "gs"):
            raise UnsupportedOption(
                f"datastore_access='direct' is for datastores in S3, and this flow's is {self._kind!r}: "
                "leave it out, and artifacts pass through the launcher"
            )
        if self._kind != "s3":
            raise UnsupportedOption(
                f"datastore_access='direct' needs a datastore that the sandbox can reach, and this flow's is "
                f"{self._kind!r}: run it with --datastore s3, or leave the option out and artifacts pass "
                "through the launcher"
            )
        listed = Feature.EGRESS_LIST in backend.features
        if network == "none" or (network is None and not listed):
            has = [f"network={word!r}" for feature, word in NETWORKS.items() if feature in backend.features]
            mend = f"set {' or '.join(has)}" if has or listed else "choose another backend"
            raise UnsupportedOption(
                "datastore_access='direct' with network='none': the sandbox could not reach S3. "
                f"With {name}, {mend}{', or leave network= out' if listed else ''}; or leave "
                "datastore_access out, and artifacts pass through the launcher"
            )


def libraries() -> str:
    """A directory with boto3."""
    from .s3_bundle import bundle

    return str(bundle())


def reaching(network: Any, place: S3Place, root: str) -> str | tuple[str, ...]:
    """The network of the step, with the bucket's hosts where it is a list of hosts, or not asked for."""
    if isinstance(network, str):
        return network
    bucket = root.partition("://")[2].partition("/")[0]
    # boto3 takes the one or the other, as it finds right.
    hosts = (place.host, *([] if is_address(place.host) else [f"{bucket}.{place.host}"]))
    return tuple(dict.fromkeys((*(network or ()), *hosts)))


def variables(place: S3Place, root: str) -> dict[str, str]:
    """Environment variables of the step; the credentials are not among them."""
    found = {
        "METAFLOW_SANDBOX_DIRECT_ROOT": root,
        "METAFLOW_DATASTORE_SYSROOT_S3": root,
        # The sandbox's own machine may have a role, which is nobody's business here.
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if place.custom:
        found["METAFLOW_S3_ENDPOINT_URL"] = place.endpoint
    if place.region:
        found["AWS_DEFAULT_REGION"] = place.region
    for name in CARRIED:
        value = getattr(metaflow_config, name)
        if value not in (None, "", False):
            found[f"METAFLOW_{name}"] = str(value)
    # As configured: Metaflow puts objects of boto3 into its own copy.
    params = from_conf("DATATOOLS_CLIENT_PARAMS", {})
    params = {name: value for name, value in params.items() if is_carried(name, value)}
    if params:
        found["METAFLOW_DATATOOLS_CLIENT_PARAMS"] = json.dumps(params)
    workers = metaflow_config.S3_WORKER_COUNT
    if place.is_r2 and "METAFLOW_S3_WORKER_COUNT" not in os.environ:
        workers = min(int(workers), R2_WORKERS)
    return {**found, "METAFLOW_S3_WORKER_COUNT": str(workers)}


def is_carried(name: str, value: Any) -> bool:
    """Whether it is no key, which the credentials hold, and no path or object of the launcher's."""
    if name.startswith("aws_") or (name == "verify" and isinstance(value, str)):
        return False
    return isinstance(value, (str, int, float, dict))


def is_own(host: str) -> bool:
    """Whether a host is this machine itself, as seen from it."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Whether a host is given by its address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
