"""A Daytona for the tests: the stand-in, in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from .stand_in import StandIn, running

KEY = "dtn_a-key-of-the-tests"


class DaytonaServer(StandIn):
    """A running stand-in."""

    program = "daytona_server"
    key = KEY

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that leads to it."""
        return {"DAYTONA_API_URL": f"{self.url}/api", "DAYTONA_API_KEY": KEY}

    def sandboxes(self) -> list[dict[str, Any]]:
        """What it has, without those on their way out."""
        found: list[dict[str, Any]] = []
        cursor: str | None = "0"
        while cursor is not None:
            page = self.ask("GET", f"/api/sandbox?cursor={cursor}")
            found += page["items"]
            cursor = page.get("nextCursor")
        return [sandbox for sandbox in found if sandbox["state"] != "destroying"]

    def created(self) -> list[dict[str, Any]]:
        """Every request for a sandbox so far that was not refused."""
        asked: list[dict[str, Any]] = self.ask("GET", "/created")
        return asked


def daytona_server() -> contextlib.AbstractContextManager[DaytonaServer]:
    """Run one."""
    return running(DaytonaServer)
