"""CPU and memory of a sandbox over time, sampled by the step itself, for its timeline card."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

FILE = "metaflow-sandbox-samples.json"
EVERY = 0.1  # seconds at first; doubled whenever half of the samples are dropped
MOST = 240
MAXRSS_MIB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, Linux KiB
PROC = Path("/proc")
# Fields of /proc/PID/stat behind the name, see proc(5): utime, stime, cutime, cstime; rss.
TIMES, RESIDENT = slice(11, 15), 21


class Sample(NamedTuple):
    """``time`` in seconds since the epoch, ``cpu`` in seconds used so far, ``memory`` in MiB."""

    time: float
    cpu: float
    memory: float


def start_sampling() -> threading.Thread:
    """Sample until the process ends."""
    thread = threading.Thread(target=_sample, args=(place(),), name="sandbox-samples", daemon=True)
    thread.start()
    return thread


def place() -> Path:
    """Where the samples are, seen from every process of the step."""
    return Path(tempfile.gettempdir(), FILE)


def read_samples(file: Path | None = None) -> list[Sample]:
    """The samples so far; none where nothing was sampled, or the step has overwritten the file."""
    try:
        return [Sample(*map(float, row)) for row in json.loads((file or place()).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def usage(proc: Path = PROC) -> Sample:
    """CPU time and memory of all processes that are seen here; of this one where there is no /proc."""
    if not (proc / "self" / "stat").exists():
        ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in ours)
        return Sample(time.time(), cpu, ours[0].ru_maxrss / MAXRSS_MIB)
    ticks = pages = 0
    for entry in proc.glob("[0-9]*"):
        try:
            # The name in parentheses may hold anything.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        ticks += sum(map(int, fields[TIMES]))
        pages += int(fields[RESIDENT])
    page = os.sysconf("SC_PAGE_SIZE")
    return Sample(time.time(), ticks / os.sysconf("SC_CLK_TCK"), pages * page / (1 << 20))


def thinned(samples: list[Sample]) -> list[Sample]:
    """Every second sample, the first and the last included."""
    return [*samples[:-1:2], samples[-1]]


def _sample(file: Path) -> None:
    samples: list[Sample] = []
    every = EVERY
    draft = file.with_suffix(".new")
    while True:
        samples.append(usage())
        if len(samples) > MOST:
            samples, every = thinned(samples), every * 2
        try:
            draft.write_text(json.dumps(samples))
            draft.replace(file)
        except OSError:
            return  # the disk is full, or the step removed the directory: a card without charts
        time.sleep(every)
