"""A stand-in for a cloud's backend: nothing of the launcher's is visible inside but what is sent.

Commands run as plain processes of this machine, so that the loopback's bucket can be reached; the walls of
the network are declared, and nobody's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend

NETWORKS = frozenset({Feature.NETWORK_OFF, Feature.NETWORK_PUBLIC, Feature.EGRESS_LIST})


class OutsideBackend(ScriptedBackend):
    """Processes with an interpreter of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = (self.features - {Feature.HOST_PYTHON}) | NETWORKS | {Feature.REMOTE}


def settings() -> Mapping[str, str]:
    """The environment of a launcher that uses it; inside there is no boto3 but the one that comes along."""
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    return {
        "METAFLOW_SANDBOX_BACKEND": f"{__name__}:{OutsideBackend.__name__}",
        "METAFLOW_SANDBOX_EXECUTABLE": str(base),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
