"""Faults on the backend of the flow suite: the right error, nothing left over, nothing runs twice."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.backends.registry import load

from .harness import BACKEND, FlowRun, place_flow, run_flow
from .live import LiveFlow, live_directory, live_flow
from .suites import SUITES

FOREVER = 600  # seconds


@contextlib.contextmanager
def running(width: int, *arguments: str) -> Iterator[LiveFlow]:
    """A run of LifeFlow whose bodies all run, in a sandbox each with a daemon and the daemon's child."""
    with live_directory() as root:
        words = ["run", "--width", str(width), "--seconds", str(FOREVER), "--marker", f"{root}/child"]
        with live_flow("life_flow.py", *words, "--with", "sandbox", *arguments, root=root) as flow:
            flow.wait_for("runs as attempt 0", width)
            yield flow


def ended(flow: LiveFlow, sandboxes: set[str], width: int) -> FlowRun:
    """The run once it is over, with nothing left of it and every body run once."""
    run = flow.finish()
    flow.assert_gone(sandboxes)
    assert run.output.count("runs as attempt") == width
    assert "Traceback" not in run.output
    return run


@pytest.mark.parametrize("role", ["scheduler", "supervisor", "shim", "step"])
def test_a_killed_part_leaves_nothing(role: str) -> None:
    """Guards against sandboxes, mounts, cgroups and processes that outlive a part that was killed."""
    with running(2) as flow:
        sandboxes = flow.sandboxes()
        flow.kill(role)
        run = ended(flow, sandboxes, 2)
    assert run.returncode == (-signal.SIGKILL if role == "scheduler" else 1), run.output


def test_ctrl_c_leaves_nothing() -> None:
    """Guards the way in which a run is most often cancelled."""
    with running(2) as flow:
        sandboxes = flow.sandboxes()
        flow.interrupt()
        run = ended(flow, sandboxes, 2)
    assert run.returncode != 0


def test_a_timeout_leaves_nothing() -> None:
    """Guards @timeout, whose signal goes to a process inside."""
    with running(1, "--with", "timeout:seconds=3") as flow:
        run = ended(flow, flow.sandboxes(), 1)
    assert run.returncode == 1
    assert "timed out after" in run.output


def size(least: int) -> str:
    """As many MiB, or the next that there are on the backend."""
    unit = SUITES[BACKEND].unit if BACKEND in SUITES else 1
    return str(-(-least // unit) * unit)


def rude(directory: Path, way: str, option: str) -> FlowRun:
    """A run whose first step misbehaves."""
    flow = place_flow("rude_flow.py", directory)
    run = run_flow(flow, "run", "--way", way, "--with", f"sandbox:{option}", check=False)
    assert run.returncode == 1, run.output
    assert "trying again" not in run.output
    return run


def test_too_much_memory(tmp_path: Path) -> None:
    """Guards against a step that takes the machine's memory, is killed without a reason, or runs again."""
    if Feature.MEMORY_LIMIT not in load(BACKEND).features:
        assert "choose another backend" in rude(tmp_path, "take_memory", "memory=400").output
        return
    run = rude(tmp_path, "take_memory", f"memory={size(400)}")
    assert f"more than its {size(400)} MiB of memory" in run.output or "MemoryError" in run.output
    assert run.output.count("] before") == 1


def test_a_full_disk(tmp_path: Path) -> None:
    """Guards against a step that fills the host's disk, or fails without saying why."""
    if Feature.DISK_LIMIT not in load(BACKEND).features:
        assert "choose another backend" in rude(tmp_path, "fill_disk", "disk=64").output
        return
    run = rude(tmp_path, "fill_disk", f"disk={size(64)}")
    assert "No space left on device" in run.output or "File too large" in run.output
    assert run.output.count("] before") == 1


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    """Guards against retries of what can't succeed, and an error that does not name the image or option."""
    flow = place_flow("rude_flow.py", tmp_path)
    option = "sandbox:image=/no/such/image"
    run = run_flow(flow, "run", "--way", "nothing", "--with", option, check=False)
    assert run.returncode == 1
    assert (
        "/no/such/image" if Feature.IMAGE in load(BACKEND).features else "an image can be named"
    ) in run.output
    assert "trying again" not in run.output
    assert "Traceback" not in run.output
