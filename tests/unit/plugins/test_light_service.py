"""Which service provider Metaflow gets, and what it imports for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HERE, ELSEWHERE = "http://127.0.0.1:1", "https://service.example"
SCRIPT = """
import sys
import metaflow
from metaflow.plugins import METADATA_PROVIDERS, SIDECARS
early = "requests" in sys.modules
(provider,) = [each for each in METADATA_PROVIDERS if each.TYPE == "service"]
workers = [SIDECARS[name].get_worker().__name__ for name in ("heartbeat", "spot_termination_monitor")]
print(provider.__name__, early, *workers)
"""


@pytest.mark.parametrize(
    ("url", "heartbeat", "provider", "imports_requests"),
    [
        (HERE, "light", "LightServiceMetadata", False),
        (HERE, "metaflow", "TellingServiceMetadata", True),
        (ELSEWHERE, "light", "ServiceMetadataProvider", True),
    ],
)
def test_provider_and_sidecars(url: str, heartbeat: str, provider: str, imports_requests: bool) -> None:
    """Guards what a light task is about, that services elsewhere keep Metaflow's own, and its sidecars."""
    env = {**os.environ, "METAFLOW_SERVICE_URL": url, "METAFLOW_SANDBOX_HEARTBEAT": heartbeat}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, check=True, text=True)
    said = [provider, str(imports_requests), "MetadataHeartBeat", "SpotTerminationMonitorSidecar"]
    assert done.stdout.split() == said
