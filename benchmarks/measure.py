"""Run commands in turns, and reduce what was measured to numbers that a noisy machine cannot bend much."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TIMEOUT = 300  # seconds; a flow that takes longer hangs
FLOWS = Path(__file__).with_name("flows")

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One finished command: wall-clock and CPU seconds (user and system, of its whole tree), its output."""

    seconds: float
    cpu: float
    output: str


@dataclass(frozen=True)
class Series:
    """Repetitions of one measurement."""

    values: tuple[float, ...]

    @property
    def low(self) -> float:
        """The 20th percentile: near the minimum, and not decided by one lucky repetition."""
        if len(self.values) < 2:
            return self.values[0]
        return statistics.quantiles(self.values, n=5, method="inclusive")[0]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a part of the median."""
        if len(self.values) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return (third - first) / 2 / self.median


def series(runs: Sequence[T], read: Callable[[T], float]) -> Series:
    return Series(tuple(read(run) for run in runs))


def in_turns(plain: Callable[[], T], sandboxed: Callable[[], T], repeat: int) -> tuple[list[T], list[T]]:
    """Results of A B B A A B …, after one of each that does not count."""
    plain(), sandboxed()
    results: tuple[list[T], list[T]] = ([], [])
    for number in range(repeat):
        # The one that goes first changes, so that no periodic disturbance meets always the same one.
        turns = [(results[0], plain), (results[1], sandboxed)]
        for kept, run in turns if number % 2 == 0 else reversed(turns):
            kept.append(run())
    return results


def flow_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a user's shell has, without the settings of whoever measures."""
    foreign = ("METAFLOW_", "AWS_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "METAFLOW_USER": "benchmark", **(extra or {})}


def run_flow(
    flow: str, *arguments: str, directory: Path, environment: Mapping[str, str] | None = None
) -> Run:
    """Run ``python FLOW ARGUMENTS…`` in ``directory``. Raises RuntimeError with its output when it fails."""
    script = directory / flow
    if not script.exists():
        script.write_bytes((FLOWS / flow).read_bytes())
    adopt_orphans()
    others = set(children(os.getpid()))
    before, start = cpu_of_children(), perf_counter()
    done = subprocess.run(
        [sys.executable, flow, *arguments],
        cwd=directory,
        env=flow_environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )
    seconds = perf_counter() - start
    reap_orphans(others)
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"{flow} {' '.join(arguments)} failed:\n{output}")
    return Run(seconds, cpu_of_children() - before, output)


def adopt_orphans() -> None:
    """Become the parent of processes whose own has gone: bwrap does not wait for its sandbox's init."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def reap_orphans(others: set[int]) -> None:
    """Wait for everything that the last command left, so that its CPU time counts; not for ``others``."""
    while left := set(children(os.getpid())) - others:
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def children(pid: int) -> list[int]:
    """Those of every thread of the process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
