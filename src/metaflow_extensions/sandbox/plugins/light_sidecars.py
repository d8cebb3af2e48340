"""Metaflow's sidecars that need ``requests``, imported by whom they are started for."""

from __future__ import annotations

from typing import Any


class LateHeartbeat:
    """``heartbeat``."""

    @classmethod
    def get_worker(cls) -> Any:
        """Metaflow's own."""
        from metaflow.metadata_provider.heartbeat import MetadataHeartBeat

        return MetadataHeartBeat.get_worker()


class LateSpotMonitor:
    """``spot_termination_monitor``."""

    @classmethod
    def get_worker(cls) -> Any:
        """Metaflow's own."""
        from metaflow.plugins.kubernetes.spot_monitor_sidecar import SpotTerminationMonitorSidecar

        return SpotTerminationMonitorSidecar.get_worker()
