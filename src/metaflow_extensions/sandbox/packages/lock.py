"""Exactly which wheels an environment is made of."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1  # of environments in the cache; raised when an older one can't be used any more


@dataclass(frozen=True)
class Wheel:
    """One file of a package, and the SHA-256 that it has to have; ``url`` may be a file's."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str


@dataclass(frozen=True)
class Lock:
    """Wheels for a version of Python (X.Y) on a platform, as uv names it."""

    python: str
    platform: str
    wheels: tuple[Wheel, ...]

    def key(self, interpreter: str) -> str:
        """The name of the environment for an interpreter, which says where and in what image it is."""
        files = sorted((wheel.filename, wheel.sha256) for wheel in self.wheels)
        text = json.dumps([FORMAT, self.python, self.platform, interpreter, files])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def names(self) -> list[str]:
        """NAME==VERSION of each."""
        return [f"{wheel.name}=={wheel.version}" for wheel in self.wheels]

    def recorded(self) -> str:
        """The lock as text for a task's metadata: enough to make the environment again."""
        packages = {wheel.name: [wheel.version, f"sha256:{wheel.sha256}"] for wheel in self.wheels}
        return json.dumps({"python": self.python, "platform": self.platform, "packages": packages})

    def as_json(self) -> dict[str, Any]:
        """The inverse of ``from_json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Lock:
        """Raise KeyError or TypeError for anything else than what ``as_json`` gives."""
        return cls(kept["python"], kept["platform"], tuple(Wheel(**wheel) for wheel in kept["wheels"]))


def write_whole(path: Path, text: str) -> None:
    """Write a file that others never see half. Raises OSError."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as draft:
        try:
            draft.write(text)
            draft.close()
            Path(draft.name).rename(path)
        except OSError:
            Path(draft.name).unlink()
            raise
