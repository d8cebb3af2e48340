"""The start and end of one sandbox, without Metaflow in it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from time import perf_counter

from metaflow_extensions.sandbox.backends.bubblewrap import binary as bwrap_binary
from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
from metaflow_extensions.sandbox.backends.python_env import discover

from .measure import Series, in_turns
from .report import Row

RUNS_A_REPETITION = 20
LIMIT = 25.0  # milliseconds above a bare bwrap
BARE = ("--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev")


def true_in_a_sandbox(directory: Path, repeat: int) -> list[Row]:
    """``true`` with the walls and the Python environment of a step, above ``true`` in a bare bwrap."""
    backend, spec, binary = BubblewrapBackend(), SandboxSpec(python=discover()), bwrap_binary.find()

    def bare() -> float:
        begin = perf_counter()
        subprocess.run([binary, *BARE, "true"], check=True, cwd=directory)
        return perf_counter() - begin

    def sandboxed() -> float:
        begin = perf_counter()
        sandbox = backend.open(spec)
        try:
            process = sandbox.start(Command(["true"]))
            said = b"".join(output.data for output in process.output())
            if process.wait() or said:
                raise RuntimeError(f"true has failed in a sandbox: {said.decode(errors='replace')}")
        finally:
            sandbox.close()
        return perf_counter() - begin

    alone, walled = (Series(tuple(times)) for times in in_turns(bare, sandboxed, repeat * RUNS_A_REPETITION))
    return [
        Row(
            "`true` in a sandbox, above a bare bwrap",
            f"{alone.low * 1000:.1f} ms ±{alone.spread:.0%}",
            f"{walled.low * 1000:.1f} ms ±{walled.spread:.0%}",
            (walled.low - alone.low) * 1000,
            "ms",
            LIMIT,
            repeat * RUNS_A_REPETITION,
            (walled.median - alone.median) * 1000,
        )
    ]
