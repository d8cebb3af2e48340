"""What a step in a container or a virtual machine costs, against what its runtime costs by itself.

Of the backend that METAFLOW_SANDBOX_BACKEND and METAFLOW_SANDBOX_IMAGE choose; its floor is the shell
command in METAFLOW_SANDBOX_FLOOR, such as ``podman run --rm --network none IMAGE true``, timed from outside
unless it prints ``FLOOR`` and its seconds.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from .measure import Series, run_flow
from .report import Row

SETTINGS = ("BACKEND", "IMAGE", "NETWORK", "BACKEND_OPTIONS")
FLOOR = "METAFLOW_SANDBOX_FLOOR"
LIMIT = 1.3
STEPS = 6  # of flows/chain.py


def steps_in_images(directory: Path, repeat: int) -> list[Row]:
    """What sandboxing a step adds to the run, in floors."""
    names = [f"METAFLOW_SANDBOX_{name}" for name in SETTINGS]
    environment = {name: os.environ[name] for name in names if name in os.environ}
    if FLOOR not in os.environ or len(environment) < 2:
        raise SystemExit(f"images: set METAFLOW_SANDBOX_BACKEND, METAFLOW_SANDBOX_IMAGE and {FLOOR}")
    floor = shlex.split(os.environ[FLOOR])

    def bare() -> float:
        begin = perf_counter()
        output = subprocess.run(floor, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds = perf_counter() - begin
        told = re.search(r"^FLOOR (\S+)$", output, re.MULTILINE)
        return float(told.group(1)) if told else seconds

    def chain(sandboxed: int) -> float:
        variables = {**environment, "CHAIN_SANDBOXED": str(sandboxed)}
        return run_flow("chain.py", "run", directory=directory, environment=variables).seconds

    measured = turns(repeat, bare, lambda: chain(0), lambda: chain(1), lambda: chain(STEPS))
    floors, plain, first, every = (Series(tuple(times)) for times in measured)
    name = environment["METAFLOW_SANDBOX_BACKEND"]
    return [
        Row(
            f"a step in {name}, above a plain one, against the runtime's floor",
            f"{floors.low * 1000:.0f} ms ±{floors.spread:.0%}",
            f"{(every.low - first.low) / (STEPS - 1) * 1000:.0f} ms",
            (every.low - first.low) / (STEPS - 1) / floors.low,
            "x",
            LIMIT,
            repeat,
            (every.median - first.median) / (STEPS - 1) / floors.median,
        ),
        Row(
            f"the first of a run in {name}, the supervisor's start included",
            f"{floors.low * 1000:.0f} ms ±{floors.spread:.0%}",
            f"{(first.low - plain.low) * 1000:.0f} ms",
            (first.low - plain.low) / floors.low,
            "x",
            None,
            repeat,
            (first.median - plain.median) / floors.median,
        ),
    ]


def turns(repeat: int, *actions: Callable[[], float]) -> list[list[float]]:
    """Results of each action, done one after the other, after one of each that does not count."""
    for action in actions:
        action()
    results: list[list[float]] = [[] for _ in actions]
    for number in range(repeat):
        # The one that goes first changes.
        for place in range(len(actions)):
            index = (place + number) % len(actions)
            results[index].append(actions[index]())
    return results
