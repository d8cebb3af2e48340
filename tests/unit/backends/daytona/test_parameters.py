"""From a spec to what Daytona is asked for."""

from __future__ import annotations

import pytest

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

from metaflow_extensions.sandbox.backends.daytona.parameters import next_size, parameters
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.errors import UnsupportedOption


@pytest.mark.parametrize(
    ("limit", "amount", "size"),
    [("cpu", 0.5, 1), ("cpu", 2, 2), ("memory", 512, 1024), ("memory", 6000, 6144), ("disk", 2048, 2048)],
)
def test_the_next_size_is_enough_and_taken(limit: str, amount: float, size: int) -> None:
    """Guards a step with @resources against less than it needs, and a size that is refused again."""
    assert next_size(limit, amount) == size
    taken = parameters("name", SandboxSpec(**{limit: size})).resources  # type: ignore[arg-type]
    assert getattr(taken, limit) == (size if limit == "cpu" else size / 1024)


def test_other_sizes_are_refused_with_the_next() -> None:
    """Guards against a limit that is looser than what was asked for by name."""
    with pytest.raises(UnsupportedOption, match="memory=6144"):
        parameters("name", SandboxSpec(memory=6000))


@pytest.mark.parametrize(("lifetime", "minutes"), [(None, 120), (60, 6), (3600, 65)])
def test_there_is_an_end_without_us(lifetime: float | None, minutes: int) -> None:
    """Guards the last resort: never a sandbox that stays for ever, nor one that ends before its step may."""
    made = parameters("name", SandboxSpec(lifetime=lifetime))
    assert (made.ephemeral, made.ttl_minutes, made.auto_stop_interval) == (True, minutes, 15)
