"""Large and many artifacts through the relay: complete, and with little memory on the launcher's side."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .both_ways import SANDBOXED, BothWays, assert_same, run_both_ways
from .harness import read_results
from .live import LiveFlow, live_flow

MIB = 1 << 20
GIB = 1 << 30
# Anonymous memory of the supervisor: Metaflow and its SDKs loaded, and room for a few buffers.
BOUND = 160 * MIB
NEEDED_MEMORY = 6 * GIB  # of the step itself: the artifact, its pickle, the compressed pickle
NEEDED_DISK = 5 * GIB


@dataclass
class Peak:
    """The most that was seen, in bytes; ``samples`` is how often it was looked."""

    anonymous: int = 0
    shared: int = 0
    samples: int = 0


def memory_of(pid: int) -> dict[str, int]:
    """Bytes by the names of /proc/PID/status; empty for a process that is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {
            name: int(value.split()[0]) * 1024
            for name, _, value in (line.partition(":") for line in lines)
            if name in ("RssAnon", "RssShmem")
        }
    return {}


@contextlib.contextmanager
def watching(flow: LiveFlow) -> Iterator[Peak]:
    """Look at the memory of the flow's supervisor, over and over."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for process in flow.of_role("supervisor"):
                memory = memory_of(process.pid)
                peak.anonymous = max(peak.anonymous, memory.get("RssAnon", 0))
                peak.shared = max(peak.shared, memory.get("RssShmem", 0))
                peak.samples += 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def available_memory() -> int:
    """Bytes, as the kernel guesses."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def test_artifact_of_a_gibibyte_passes_in_bounded_memory() -> None:
    """Guards streaming, in and out: what is sent, checked, stored and loaded is never held as a whole."""
    if available_memory() < NEEDED_MEMORY or shutil.disk_usage(tempfile.gettempdir()).free < NEEDED_DISK:
        pytest.skip("too little memory or disk for a step with an artifact of 1 GiB")
    with live_flow("large_flow.py", "run", *SANDBOXED) as flow:
        with watching(flow) as peak:
            done = flow.finish()
        assert done.returncode == 0, done.output
        script = (
            "from metaflow import Run, namespace\nnamespace(None)\n"
            f"data = Run('LargeFlow/{done.run_id}').data\nprint(data.same, data.size)"
        )
        assert read_results(flow.directory, script).split() == ["True", str(GIB)]
        blobs = Path(flow.directory, ".metaflow", "LargeFlow", "data").rglob("*")
        assert max(blob.stat().st_size for blob in blobs if blob.is_file()) > GIB
    assert peak.samples > 20
    assert 0 < peak.anonymous < BOUND, f"{peak.anonymous / MIB:.0f} MiB"
    assert peak.shared < BOUND, f"{peak.shared / MIB:.0f} MiB"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """ManyFlow, both ways."""
    return run_both_ways("many_flow.py", "ManyFlow", tmp_path_factory.mktemp("many"))


def test_many_small_artifacts_are_the_same(many: BothWays) -> None:
    """Guards a thousand artifacts: none is lost, mixed up or loaded as another."""
    assert_same(many)
    artifacts = many.sandboxed.task("end")["artifacts"]
    assert [artifacts[f"a{number}"] for number in (0, 500, 999)] == [
        ["int", "1"],
        ["int", "501"],
        ["int", "1000"],
    ]
    assert sum(name.startswith("a") for name in artifacts) == 1000
