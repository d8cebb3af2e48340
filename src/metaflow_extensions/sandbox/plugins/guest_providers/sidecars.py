"""Sidecars inside a sandbox, in the place of core's that need ``requests`` and a network."""

from __future__ import annotations

from typing import Any


class RelayHeartbeat:
    """The launcher beats, so there is nothing to do."""

    def process_message(self, msg: Any) -> None:
        """Nothing to send."""

    @classmethod
    def get_worker(cls) -> type[RelayHeartbeat]:
        """The class that runs in the sidecar's process."""
        return cls


class NoSpotMonitor(RelayHeartbeat):
    """For @batch and @kubernetes only; replaced because Metaflow imports every sidecar at its start."""
