"""The heartbeat sidecar inside a sandbox: the launcher beats, so there is nothing to do."""

from __future__ import annotations

from typing import Any


class RelayHeartbeat:
    """Takes the place of core's sidecar, which needs ``requests`` and a network."""

    def process_message(self, msg: Any) -> None:
        """Nothing to send."""

    @classmethod
    def get_worker(cls) -> type[RelayHeartbeat]:
        """The class that runs in the sidecar's process."""
        return cls
