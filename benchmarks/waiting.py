"""What a task that only waits costs the launcher: a hundred at once, on a backend that runs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .measure import Series, children, flow_environment
from .report import Row

TASKS = 100
WAIT = 120.0  # seconds for all of them to wait at once
MEMORY = 15.0  # MiB a task
CPU = 10.0  # milliseconds of the supervisor a task
TICK = 0.01  # seconds between looks at the supervisor's CPU time


@dataclass(frozen=True)
class Waiting:
    """A task's MiB (its shim's, its share of the supervisor's processes) and the supervisor's CPU, in ms."""

    shim: float
    share: float
    cpu: float


def waiting_tasks(directory: Path, repeat: int) -> list[Row]:
    """Memory and CPU of a waiting task."""
    seen = [hundred(directory) for _ in range(max(1, repeat // 5))]
    total = Series(tuple(each.shim + each.share for each in seen))
    cpu = Series(tuple(each.cpu for each in seen))
    parts = f"{min(each.shim for each in seen):.1f} + {min(each.share for each in seen):.1f} MiB"
    return [
        Row(
            "memory of a waiting task (shim + share), of 100",
            "",
            parts,
            total.low,
            "MiB",
            MEMORY,
            len(seen),
            total.median,
        ),
        Row("supervisor's CPU time a task, of 100", "", "", cpu.low, "ms", CPU, len(seen), cpu.median),
    ]


def hundred(directory: Path) -> Waiting:
    """Run the flow until all its tasks wait, look at the processes, and let it end."""
    events, script = directory / "events", directory / "script.json"
    events.unlink(missing_ok=True)
    # A command that is not run saves no results: its task fails, after it has waited.
    outcome = {"seconds": 30, "exit_code": 1}
    script.write_text(
        json.dumps({"outcome": outcome, "pretend": ["MOUNT", "NETWORK_OFF"], "events": str(events)})
    )
    flow = directory / "waiting.py"
    flow.write_bytes(Path(__file__).with_name("flows").joinpath("waiting.py").read_bytes())
    scheduler = subprocess.Popen(
        [sys.executable, flow.name, "run", "--max-workers", str(TASKS)],
        cwd=directory,
        env=flow_environment({"METAFLOW_SANDBOX_SCRIPT": str(script)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None,
    )
    try:
        await_all(events, scheduler)
        reaper, shims = processes_of(scheduler.pid)
        (supervisor,) = children(reaper)
        shim = sum(map(proportional_memory, shims)) / TASKS
        share = sum(map(proportional_memory, (reaper, supervisor))) / TASKS
        return Waiting(shim, share, cpu_until_closed(supervisor, events) * 1000 / TASKS)
    finally:
        scheduler.terminate()
        scheduler.wait()


def await_all(events: Path, scheduler: subprocess.Popen[bytes]) -> None:
    """Return when every task has started. Raises RuntimeError when the flow ends before."""
    deadline = time.monotonic() + WAIT
    while count(events, "started") < TASKS:
        if scheduler.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"{count(events, 'started')} of {TASKS} tasks have started, see {events.parent}"
            )
        time.sleep(0.1)


def processes_of(scheduler: int) -> tuple[int, list[int]]:
    """(the supervisor's reaper, the shims): they are told apart by the script that they run."""
    scripts = {pid: os.path.basename(_script(pid)) for pid in children(scheduler)}  # noqa: PTH119 -- may be ""
    (reaper,) = [pid for pid, script in scripts.items() if script == "main.py"]
    shims = [pid for pid, script in scripts.items() if script == "shim.py"]
    if len(shims) != TASKS:
        raise RuntimeError(f"{len(shims)} of {TASKS} shims are there")
    return reaper, shims


def _script(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return next((word for word in words[1:] if not word.startswith("-")), "")


def proportional_memory(pid: int) -> float:
    """PSS in MiB: private pages, and a share of those that other processes map too."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no PSS")


def cpu_until_closed(pid: int, events: Path) -> float:
    """Seconds of CPU of the supervisor over its life, taken until the last sandbox was closed."""
    last = 0.0
    for seconds in cpu_times(pid):
        last = seconds
        if count(events, "closed") >= TASKS:
            break
    return last


def cpu_times(pid: int) -> Iterator[float]:
    """User and system seconds so far, again and again until the process ends."""
    stat = Path(f"/proc/{pid}/stat")
    while True:
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return
        yield (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(TICK)


def count(events: Path, event: str) -> int:
    """How many lines of the backend's record tell of ``event``."""
    return events.read_text().count(f'"event": "{event}"') if events.exists() else 0
