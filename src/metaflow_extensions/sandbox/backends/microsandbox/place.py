"""Where sandboxes are made: on this machine, or in a cloud that speaks microsandbox's API."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import microsandbox
from microsandbox import BackendKind

from ...errors import BackendUnavailable
from .. import kvm

NAME = "microsandbox"
URL, KEY = "METAFLOW_SANDBOX_MICROSANDBOX_URL", "METAFLOW_SANDBOX_MICROSANDBOX_API_KEY"
HOME = "MSB_HOME"
LONGEST_HOME = 56  # characters, so that a socket below it has at most 107
SPACE = 1024  # MiB; an unpacked image, and the first writes to a disk that grows as it fills

_choosing = threading.Lock()
_chosen: Place | None = None


@dataclass(frozen=True)
class Place:
    """A cloud's address, or None for this machine, whose ``home`` holds images, disks and the database."""

    url: str | None
    home: Path
    key: str | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"the microsandbox cloud at {self.url}" if self.url else f"microsandbox in {self.home}"

    def use(self) -> None:
        """Make it the SDK's."""
        global _chosen
        with _choosing:
            if _chosen == self:
                return
            if self.url:
                microsandbox.set_default_backend(BackendKind.CLOUD, url=self.url, api_key=self.key)
            else:
                microsandbox.set_default_backend(BackendKind.LOCAL)
            _chosen = self

    def prepare(self) -> None:
        """Raise BackendUnavailable unless a virtual machine may boot here; a boot that fails takes long.

        The home is made, or closed to others: it holds what steps write, and secrets while they run.
        """
        if self.url:
            return
        kvm.check_machine(NAME)
        if len(str(self.home)) > LONGEST_HOME:
            raise BackendUnavailable(
                f"{HOME}={self.home} is too long for sockets below it (at most {LONGEST_HOME} characters): "
                f"set {HOME} to a shorter path"
            )
        kvm.check_space(NAME, self.home, SPACE)
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.home.stat().st_mode & 0o077:
                self.home.chmod(0o700)
        except OSError as error:
            raise BackendUnavailable(
                f"{self.home} can't be made this user's own ({error.strerror}): set {HOME} to another one"
            ) from error


def find(environ: Mapping[str, str] = os.environ) -> Place:
    """The cloud that our settings or the SDK's own name, else this machine.

    Raises BackendUnavailable when half of the settings is missing.
    """
    home = Path(environ.get(HOME) or Path.home() / ".microsandbox")
    url, key = environ.get(URL), environ.get(KEY)
    if bool(url) != bool(key):
        there, missing = (URL, KEY) if url else (KEY, URL)
        raise BackendUnavailable(f"{there} is set and {missing} is not: set both for a cloud, or none")
    if url and key:
        return Place(url.rstrip("/"), home, key)
    if environ.get("MSB_BACKEND") == "cloud" or environ.get("MSB_PROFILE"):
        raise BackendUnavailable(
            f"MSB_BACKEND and MSB_PROFILE choose for the msb command: set {URL} and {KEY} for steps, or "
            "unset them"
        )
    return Place(None, home)
