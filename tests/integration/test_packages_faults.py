"""Packages that are not there, not what they should be, or not finished: a clear error, and a sound cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.packages.cache import PackageCache

from ..unit.packages.parts import Index, index, wheel
from .harness import FlowRun, place_flow, run_flow
from .live import LiveFlow, live_directory
from .packages import INSTALLS

PURE = "demo-1.0-py3-none-any.whl"
FOREIGN = "foreign-1.0-cp311-cp311-manylinux_2_17_aarch64.whl"
LARGE = "large-1.0-py3-none-any.whl"


@pytest.fixture
def served() -> Iterator[Index]:
    """An index with a small wheel, one for another machine, and one that takes its time."""
    modules = {f"large/module{number}.py": f"X = {list(range(200))}\n" for number in range(4000)}
    files = {PURE: wheel({"demo.py": ""}), FOREIGN: wheel({}, "foreign"), LARGE: wheel(modules, "large")}
    with index(files) as serving:
        yield serving


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path."""
    with live_directory() as root:
        yield root


def settings(served: Index, place: Path, package: str) -> Mapping[str, str]:
    """What makes a flow use the index, a cache of its own and that package."""
    return {
        **served.settings,
        "METAFLOW_SANDBOX_CACHE": str(place / "cache"),
        "METAFLOW_SANDBOX_PACKAGES": f'{{"{package}": "1.0"}}',
        "METAFLOW_SANDBOX_MAX_INFRA_RETRIES": "0",
    }


def run(served: Index, place: Path, package: str, **env: str) -> FlowRun:
    """Run three sandboxed steps with the package."""
    flow = place_flow("small_flow.py", place / "flow")
    chosen = {**settings(served, place, package), **env}
    return run_flow(flow, "run", "--with", "sandbox", env=chosen, check=False)


def is_sound(place: Path) -> bool:
    """Whether the cache holds whole environments only."""
    found = (place / "cache" / "environments").glob("*")
    kept = {path.name for path in found if path.suffix not in (".lock", ".json")}
    return kept == {entry.name for entry in PackageCache(place / "cache").entries() if entry.kind != "wheel"}


def test_package_that_is_not_there(served: Index, place: Path) -> None:
    """Guards a name that is misspelt: the run does not begin."""
    done = run(served, place, "demoo")
    assert done.returncode != 0
    assert "demoo was not found" in done.output
    assert "Task is starting" not in done.output


def test_wheel_with_another_hash(served: Index, place: Path) -> None:
    """Guards what comes from an index: not what the index has said."""
    served.hashes[PURE] = "0" * 64
    done = run(served, place, "demo")
    assert done.returncode != 0
    assert f"{PURE} from 127.0.0.1 has the hash" in done.output
    assert is_sound(place)
    served.hashes.clear()
    shutil.rmtree(place / "cache" / "resolved")
    assert run(served, place, "demo").returncode == 0


def test_wheel_for_another_platform(served: Index, place: Path) -> None:
    """Guards a platform that was chosen wrongly: told before any user code, not at an import."""
    done = run(served, place, "foreign", METAFLOW_SANDBOX_TARGET_PLATFORM="linux-aarch64")
    assert done.returncode != 0
    assert f"PackagesFailed: {FOREIGN} is not for this sandbox" in done.output
    assert "METAFLOW_SANDBOX_TARGET_PLATFORM" in done.output
    assert is_sound(place)
    assert "foreign" in run(served, place, "foreign").output


def test_failure_is_not_repeated_for_each_task(served: Index, place: Path) -> None:
    """Guards a wide foreach: what can't be installed for one task can't be for the others."""
    served.hashes[PURE] = "0" * 64
    flow = place_flow("many_flow.py", place / "flow")
    env = settings(served, place, "demo")
    done = run_flow(flow, "run", "--with", "sandbox", env=env, check=False)
    assert done.returncode != 0
    assert served.fetched(PURE) <= 2  # by uv for its metadata, and once


@pytest.mark.parametrize("role", ["supervisor", "outer bwrap"])
def test_build_killed_half_way(served: Index, place: Path, role: str) -> None:
    """Guards SIGKILL of what builds: nothing half-made is used, or left by the next run."""
    flow = place_flow("small_flow.py", place / "flow")
    live = LiveFlow(flow, place, ("run", "--with", "sandbox"), settings(served, place, "large"))
    environments = place / "cache" / "environments"
    try:
        live.until(lambda: list(environments.glob("*.draft-*/lib")), "a draft")
        live.kill(role)
        assert live.finish().returncode != 0
        live.assert_gone()
    finally:
        live.end()
    done = run(served, place, "large")
    assert done.returncode == 0, done.output
    # None when the build had ended between the look at it and the kill.
    assert done.output.count(INSTALLS) <= 1
    assert is_sound(place)


def test_build_interrupted(served: Index, place: Path) -> None:
    """Guards Ctrl-C while packages are installed: it ends at once, and leaves nothing."""
    flow = place_flow("small_flow.py", place / "flow")
    live = LiveFlow(flow, place, ("run", "--with", "sandbox"), settings(served, place, "large"))
    try:
        live.wait_for(INSTALLS)
        live.interrupt()
        live.finish()
        live.assert_gone()
    finally:
        live.end()
    assert is_sound(place)
    assert PackageCache(place / "cache").entries()[0].kind == "wheel"


def test_two_runs_make_one(served: Index, place: Path) -> None:
    """Guards runs that start at the same time: the second waits for the first one's environment."""
    lives = []
    with contextlib.ExitStack() as stack:
        for number in range(2):
            root = place / str(number)
            root.mkdir()
            flow = place_flow("small_flow.py", root / "flow")
            live = LiveFlow(flow, root, ("run", "--with", "sandbox"), settings(served, place, "large"))
            stack.callback(live.end)
            lives.append(live)
        finished = [live.finish() for live in lives]
    assert [done.returncode for done in finished] == [0, 0], "\n".join(done.output for done in finished)
    assert sum(done.output.count(INSTALLS) for done in finished) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")
def test_disk_of_the_cache_is_full(served: Index, place: Path) -> None:
    """Guards a full disk: told as one, nothing half-made, and well again once there is space."""
    cache = place / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m,mode=700", "none", cache], check=True)
    try:
        done = run(served, place, "large")
        assert done.returncode != 0
        assert "No space left on device" in done.output
        assert "metaflow-sandbox cache prune" in done.output
        assert is_sound(place)
        subprocess.run(["mount", "-o", "remount,size=200m", cache], check=True)
        assert run(served, place, "large").returncode == 0
        assert is_sound(place)
    finally:
        subprocess.run(["umount", "--lazy", cache], check=True)


def test_cap_is_kept(served: Index, place: Path) -> None:
    """Guards METAFLOW_SANDBOX_CACHE_SIZE: the older environment makes room for the newer one."""
    assert run(served, place, "large").returncode == 0
    time.sleep(0.01)
    assert run(served, place, "demo", METAFLOW_SANDBOX_CACHE_SIZE="2").returncode == 0
    assert [entry.holds for entry in PackageCache(place / "cache").entries() if entry.kind != "wheel"] == [
        entry.holds for entry in PackageCache(place / "cache").entries() if "demo==1.0" in entry.holds
    ]
    assert is_sound(place)
