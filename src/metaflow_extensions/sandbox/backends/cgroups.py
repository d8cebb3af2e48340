"""Placeholder until the real module lands: no cgroup can be made here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UnsupportedOption


class Cgroup:
    """No cgroup."""

    paths: tuple[Path, ...] = ()

    @classmethod
    def create(
        cls, name: str, *, memory_mib: int | None, cpu_cores: float | None, processes: int | None
    ) -> Cgroup:
        """Refuse."""
        raise UnsupportedOption("no cgroup can be made here")

    def add(self, pid: int) -> None:
        """Nothing to add to."""

    def peak_memory_mib(self) -> float | None:
        """Not measured."""
        return None

    def remove(self) -> None:
        """Nothing to remove."""


def available() -> frozenset[str]:
    """Nothing."""
    return frozenset()


def remove_paths(paths: Iterable[Path]) -> None:
    """Nothing to remove."""
