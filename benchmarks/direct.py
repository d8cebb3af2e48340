"""What a step costs that reads and writes a bucket itself, or through the launcher, above a plain one there.

The bucket is moto's, on the loopback; the backend a stand-in for a cloud's, whose sandboxes take no time to
make, have nothing of the launcher's but what is sent, and have their disks in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.integration.outside import settings
from tests.integration.s3 import bucket

from .disks import memory
from .images import STEPS, turns
from .measure import Series, run_flow
from .report import Row

LIMITS = {"direct": 0.8, "relay": 0.5}  # seconds a task


def steps_with_a_bucket(directory: Path, repeat: int) -> list[Row]:
    """What sandboxing a step adds to a run over S3."""
    with bucket() as made, memory() as disks:

        def chain(sandboxed: int, access: str) -> Callable[[], float]:
            variables: Mapping[str, str] = {
                **made.settings,
                **settings(),
                **disks,
                "METAFLOW_SANDBOX_NETWORK": "public",
                "METAFLOW_SANDBOX_DATASTORE_ACCESS": access,
                "CHAIN_SANDBOXED": str(sandboxed),
            }
            return lambda: run_flow("chain.py", "run", directory=directory, environment=variables).seconds

        actions = [chain(0, "relay"), *(chain(n, access) for access in LIMITS for n in (1, STEPS))]
        measured = [Series(tuple(times)) for times in turns(repeat, *actions)]
    plain, rows = measured[0], []
    for number, (access, limit) in enumerate(LIMITS.items()):
        first, every = measured[1 + 2 * number : 3 + 2 * number]
        for what, low, median, most in (
            ("a step", per_step(first.low, every.low), per_step(first.median, every.median), limit),
            ("the first of a run", first.low - plain.low, first.median - plain.median, None),
        ):
            plainly = f"{plain.low / STEPS * 1000:.0f} ms ±{plain.spread:.0%}"
            added = f"{low * 1000:.0f} ms"
            name = f"{what} with a bucket, {access}, above a plain one"
            rows.append(Row(name, plainly, added, low, "s", most, repeat, median))
    return rows


def per_step(first: float, every: float) -> float:
    """Seconds that each further sandboxed step takes."""
    return (every - first) / (STEPS - 1)
