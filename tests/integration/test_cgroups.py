"""Limits that the kernel of this machine enforces; needs root, or a delegated cgroup v2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from metaflow_extensions.sandbox.backends.cgroup_files import PREFIX, Group
from metaflow_extensions.sandbox.backends.cgroup_places import hierarchies
from metaflow_extensions.sandbox.backends.cgroups import Cgroup, available, remove_paths
from metaflow_extensions.sandbox.errors import StartFailed, UnsupportedOption

needs = {
    limit: pytest.mark.skipif(limit not in available(), reason=f"no cgroup can limit {limit} here")
    for limit in ("memory", "cpu", "processes")
}
needs_all = pytest.mark.skipif(len(available()) < 3, reason="no cgroup can limit everything here")


@pytest.fixture
def name() -> Iterator[str]:
    """A name whose groups are all gone at the end."""
    name = f"test-{uuid4().hex}"
    yield name
    assert not left(name)


def left(name: str) -> list[Path]:
    """Directories of the name in all of cgroupfs."""
    return [Path(at) for at, _, _ in os.walk("/sys/fs/cgroup") if Path(at).name == PREFIX + name]


def waiting(code: str) -> subprocess.Popen[str]:
    """A Python process that runs the code once it is sent a line."""
    return subprocess.Popen(
        [sys.executable, "-c", "input()\n" + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run(cgroup: Cgroup, code: str) -> tuple[int, str]:
    """Exit code and output of code that runs inside from its first line on."""
    with waiting(code) as process:
        cgroup.add(process.pid)
        output, _ = process.communicate("\n")
        return process.returncode, output


def ended(pid: int) -> bool:
    """Whether the process is gone or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@needs["memory"]
def test_memory_is_limited(name: str) -> None:
    """Guards against a limit that does not bind or that swap gets around, and a death without a reason."""
    with ExitStack() as stack:
        cgroup = Cgroup.create(name, memory_mib=96, cpu_cores=None, processes=None)
        stack.callback(cgroup.remove)
        assert run(cgroup, "x = bytearray(b'x' * (16 << 20)); print('fits')") == (0, "fits\n")
        assert not cgroup.oom_killed()
        assert run(cgroup, "x = bytearray(b'x' * (400 << 20)); print('fits')") == (-9, "")
        assert cgroup.oom_killed()
        peak = cgroup.peak_memory_mib()
        assert peak is None or 90 < peak <= 96
        for path in cgroup.paths:
            for swap, wanted in (("memory.memsw.limit_in_bytes", 96 << 20), ("memory.swap.max", 0)):
                if "memory" in path.parts and (path / swap).exists():
                    assert int((path / swap).read_text()) == wanted
    assert cgroup.oom_killed(), "the reason must outlive the group"
    assert cgroup.peak_memory_mib() == peak


@needs["memory"]
def test_memory_is_limited_for_all_together(name: str) -> None:
    """Guards against a limit for each process, which many small ones pass."""
    cgroup = Cgroup.create(name, memory_mib=128, cpu_cores=None, processes=None)
    try:
        program = (
            "import os, time\n"
            "for _ in range(8):\n"
            "    if os.fork() == 0:\n"
            "        os.close(1)\n"
            "        x = bytearray(b'x' * (48 << 20)); time.sleep(60); os._exit(0)\n"
            "print(os.WTERMSIG(os.wait()[1]))\n"
        )
        code, output = run(cgroup, program)
        assert code == -9 or output == "9\n"  # the kernel chooses: the parent or a child
        assert cgroup.oom_killed()
    finally:
        cgroup.remove()


SPIN = """
import time
begin = time.monotonic()
while time.monotonic() - begin < 2: pass
print(time.process_time() / (time.monotonic() - begin))
"""


@needs["cpu"]
def test_processor_is_limited(name: str) -> None:
    """Guards against a quota that does not bind; the share of wall-clock time is compared, not a time."""
    cgroup = Cgroup.create(name, memory_mib=None, cpu_cores=0.2, processes=None)
    try:
        code, share = run(cgroup, SPIN)
        assert code == 0
        assert float(share) < 0.35
        used = cgroup.cpu_seconds()
    finally:
        cgroup.remove()
    assert used is None or used > 0
    assert cgroup.cpu_seconds() == used


BOMB = """
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError:
    print(count)
"""


@needs["processes"]
def test_processes_are_limited(name: str) -> None:
    """Guards against a fork bomb that takes the host's process table."""
    cgroup = Cgroup.create(name, memory_mib=None, cpu_cores=None, processes=10)
    try:
        with waiting(BOMB) as process:
            cgroup.add(process.pid)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.close()
            assert process.stdout.readline() == "9\n"
            process.wait()
            cgroup.remove()
    finally:
        cgroup.remove()


LEAVE_BEHIND = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(0); os.close(1)
            time.sleep(600)
        os._exit(0)
"""


def left_running(cgroup: Cgroup) -> list[int]:
    """Start daemons that outlive their parent; returns their pids."""
    assert run(cgroup, LEAVE_BEHIND)[0] == 0
    pids = {int(pid) for path in cgroup.paths for pid in (path / "cgroup.procs").read_text().split()}
    assert len(pids) >= 5
    return sorted(pids)


@needs_all
def test_remove_ends_what_still_runs(name: str) -> None:
    """Guards against daemons that outlive the sandbox, and a directory that stays because of them."""
    cgroup = Cgroup.create(name, memory_mib=256, cpu_cores=1, processes=64)
    pids = left_running(cgroup)
    assert sorted(left(name)) == sorted(cgroup.paths)
    cgroup.remove()
    assert all(map(ended, pids))
    cgroup.remove()


@needs["memory"]
def test_remove_without_a_limit_on_processes(name: str) -> None:
    """Guards against a bomb that forks faster than it is killed."""
    cgroup = Cgroup.create(name, memory_mib=512, cpu_cores=None, processes=None)
    with waiting("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n") as process:
        # Bounded for the machine's sake only: it still forks anew for each process that is killed.
        for path in cgroup.paths:
            if (path / "pids.max").exists():
                (path / "pids.max").write_text("400")
        cgroup.add(process.pid)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        cgroup.remove()
        assert process.wait() == -9


@needs_all
def test_another_process_removes(name: str) -> None:
    """Guards against groups that stay when the supervisor was killed and only its reaper is left."""
    cgroup = Cgroup.create(name, memory_mib=256, cpu_cores=1, processes=64)
    pids = left_running(cgroup)
    nested = cgroup.paths[0] / "made-inside"
    nested.mkdir()
    (nested / "cgroup.procs").write_text(str(pids[0]))
    code = (
        "import sys, pathlib\n"
        "from metaflow_extensions.sandbox.backends.cgroups import remove_paths\n"
        "remove_paths(map(pathlib.Path, sys.argv[1:]))\n"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, cgroup.paths)], check=True)
    assert all(map(ended, pids))
    assert not left(name)


@needs["cpu"]
def test_failure_leaves_nothing(name: str) -> None:
    """Guards against groups left behind when the kernel refuses a limit: more than the group around has."""
    if "cpu" not in hierarchies().v1:
        pytest.skip("cgroup v2 accepts any quota")
    outer = Cgroup.create(name, memory_mib=None, cpu_cores=0.5, processes=None)
    code = (
        "from metaflow_extensions.sandbox.backends.cgroups import Cgroup\n"
        f"try: Cgroup.create('{name}-inner', memory_mib=64, cpu_cores=4, processes=9)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    try:
        _, output = run(outer, code)
        assert output.startswith("UnsupportedOption")
        assert "cpu.cfs_quota_us: Invalid argument" in output
        assert not left(f"{name}-inner")
    finally:
        outer.remove()


@needs["memory"]
def test_names_are_not_shared(name: str) -> None:
    """Guards against two sandboxes in one group, of which the first to end kills the other."""
    first = Cgroup.create(name, memory_mib=64, cpu_cores=None, processes=None)
    try:
        with pytest.raises(UnsupportedOption, match="File exists"):
            Cgroup.create(name, memory_mib=64, cpu_cores=None, processes=None)
        assert sorted(left(name)) == sorted(first.paths)
    finally:
        first.remove()


@needs["memory"]
def test_a_process_that_ended_is_not_added(name: str) -> None:
    """Guards against a sandbox that counts as limited while its process never was."""
    cgroup = Cgroup.create(name, memory_mib=64, cpu_cores=None, processes=None)
    try:
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        with pytest.raises(StartFailed, match="No such process"):
            cgroup.add(process.pid)
    finally:
        cgroup.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_probing_as_another_user_leaves_nothing() -> None:
    """Guards against limits announced that this user can't set, and traces of trying."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setuid(65534)
        available.cache_clear()
        os._exit(len(available()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not left(f"probe-{child}-memory")


def test_group_of_v2(name: str) -> None:
    """Guards against v2's own files being used wrongly, as far as they exist without any controller."""
    found = hierarchies()
    if found.v2 is None or not os.access(found.v2, os.W_OK) or os.geteuid() != 0:
        pytest.skip("cgroup v2 is not mounted writable here")
    assert found.v2_mount is not None
    group = Group(found.v2_mount / (PREFIX + name), 2)
    group.path.mkdir()
    cgroup = Cgroup([group])
    try:
        pids = left_running(cgroup)
        used = cgroup.cpu_seconds()
        assert used is not None
        assert 0 < used < 60
        assert not cgroup.oom_killed()
    finally:
        remove_paths(cgroup.paths)
    assert all(map(ended, pids))
