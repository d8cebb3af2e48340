"""A server of boxes for the tests: the stand-in, in a process of its own."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from typing import Any

from .stand_in import StandIn, running

KEY = f"a-key-of-the-tests-{secrets.token_hex(8)}"


class BoxliteServer(StandIn):
    """A running stand-in."""

    program = "boxlite_server"
    key = KEY

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that leads to it."""
        return {"BOXLITE_URL": self.url, "BOXLITE_API_KEY": KEY}

    def boxes(self) -> list[dict[str, Any]]:
        """What it has."""
        found: list[dict[str, Any]] = self.ask("GET", "/v1/boxes")["boxes"]
        return found


def boxlite_server() -> contextlib.AbstractContextManager[BoxliteServer]:
    """Run one."""
    return running(BoxliteServer)
