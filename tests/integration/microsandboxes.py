"""microsandbox for the tests: the stand-in of its cloud as a process, and its settings."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from metaflow_extensions.sandbox.backends.microsandbox.place import KEY as KEY_SETTING
from metaflow_extensions.sandbox.backends.microsandbox.place import URL

from . import stand_in as stand_ins
from .microsandbox_server import IMAGE

KEY = f"a-key-of-the-tests-{secrets.token_hex(8)}"


class StandIn(stand_ins.StandIn):
    """A running one; ``image`` is one that it has."""

    program = "microsandbox_server"
    key = KEY
    image: ClassVar[str] = IMAGE

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that makes the backend use it."""
        return {URL: self.url, KEY_SETTING: KEY}

    def misbehave(self, **faults: Any) -> None:
        """See ``microsandbox_server``."""
        self.ask("POST", self.faults, faults)

    def asked(self) -> Any:
        """What all creates asked for."""
        return self.ask("GET", "/asked")

    def machines(self) -> set[str]:
        """Names of the directories of its machines."""
        return set(self.ask("GET", "/machines"))


def stand_in() -> contextlib.AbstractContextManager[StandIn]:
    """Run one."""
    return stand_ins.running(StandIn)
