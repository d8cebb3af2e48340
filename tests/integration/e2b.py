"""E2B for the tests: the stand-in, in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from .stand_in import StandIn, running

KEY = "e2b_a-key-of-the-tests"


class E2BServer(StandIn):
    """A running stand-in."""

    program = "e2b_server"
    key = KEY
    faults = "/stand-in/faults"
    headers = {"X-API-KEY": KEY}  # noqa: RUF012 -- as its parent's

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that leads to it."""
        return {"E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url, "E2B_API_KEY": KEY}

    def sandboxes(self) -> list[dict[str, Any]]:
        """What it has."""
        found: list[dict[str, Any]] = self.ask("GET", "/v2/sandboxes?limit=1000")
        return found

    def asked(self, what: str) -> list[dict[str, Any]]:
        """Requests for a "sandbox", a "template" or a "timeout", or ids that were "made" or "ended"."""
        return [request for request in self.ask("GET", "/stand-in/asked") if what in request]

    def vanish(self, *, templates: bool = False) -> None:
        """All sandboxes go, and all templates where that is asked for."""
        self.ask("POST", "/stand-in/vanish" + "?templates=1" * templates, {})


def e2b_server() -> contextlib.AbstractContextManager[E2BServer]:
    """Run one."""
    return running(E2BServer)
