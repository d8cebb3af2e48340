"""What a sandbox reaches, as the policy of its virtual network; secrets are put in there, too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from microsandbox import (
    Destination,
    Network,
    NetworkPolicy,
    NetworkProfile,
    Protocol,
    Rule,
    SecretEntry,
)
from microsandbox import Secret as SecretOf

from ...errors import UnsupportedOption
from ..interface import SandboxSpec, Secret

# The host itself is beyond the wall, by whatever name.
OF_HOST = ("localhost", "host.microsandbox.internal")
# What the agent sets so that programs trust the certificates under which it puts secrets in.
CERTIFICATES = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"]


def network_of(spec: SandboxSpec) -> Network:
    """Nothing, the public internet without the host and private networks, or the hosts of a list.

    Raises UnsupportedOption for a host that can't be in a list.
    """
    if spec.network == "none":
        return Network.none()
    if isinstance(spec.network, str):
        return Network.from_profiles(NetworkProfile.PUBLIC)
    rules = [rule for host in spec.network for rule in _rules(host)]
    return Network(policy=NetworkPolicy(rules=(*Rule.allow_dns(), *rules)))


def _rules(host: str) -> Iterator[Rule]:
    name, _, port = host.partition(":")
    name = name.lower().rstrip(".")
    suffix = name.removeprefix("*.")
    if "*" in suffix or not suffix:
        raise UnsupportedOption(f"network: {host!r} is neither a host's name nor *. and a domain")
    if any(suffix == own or suffix.endswith(f".{own}") for own in OF_HOST):
        raise UnsupportedOption(
            f"network: {host!r} is this machine itself, which a sandbox can't reach: name other hosts"
        )
    limits = {"protocol": Protocol.TCP, "port": int(port)} if port else {}
    if _is_address(suffix):
        if ip_address(suffix).is_loopback or ip_address(suffix).is_link_local:
            raise UnsupportedOption(
                f"network: {host!r} is an address of the machine itself: name other hosts"
            )
        yield Rule.allow(destination=Destination.ip(suffix), **limits)  # type: ignore[arg-type]
    elif suffix == name:
        yield Rule.allow(destination=Destination.domain(name), **limits)  # type: ignore[arg-type]
    else:
        yield Rule.allow(destination=Destination.domain_suffix(suffix), **limits)  # type: ignore[arg-type]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Placeholders:
    """Secrets as the network puts them in, and what commands find in their place."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self.variables = {secret.name: f"secret-{secret.name}-{os.urandom(8).hex()}" for secret in secrets}
        self.entries: list[SecretEntry] = [
            SecretOf.env(
                secret.name,
                value=secret.value,
                allow=secret.hosts,
                placeholder=self.variables[secret.name],
            )
            for secret in secrets
        ]
        self.inherited = CERTIFICATES if secrets else []
