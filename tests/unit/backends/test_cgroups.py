"""Where groups are made and what is written to them.

The directory trees here only *imitate* cgroupfs: plain files that say what a kernel would. They check the
choice of a place and the text of the control files. What a kernel does with them is checked by
``tests/integration/test_cgroups.py``, for cgroup v1 and for v2 as far as the machine has its controllers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.cgroup_files import Group, remove_paths
from metaflow_extensions.sandbox.backends.cgroup_places import Hierarchies, Place, hierarchies, places
from metaflow_extensions.sandbox.backends.cgroups import Cgroup, _create
from metaflow_extensions.sandbox.errors import UnsupportedOption

NOBODY = 65534


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory that every user may walk through, which ``tmp_path`` is not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def as_nobody(call: Callable[[], object]) -> str:
    """What the call returns or raises, as text, when a normal user makes it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            answer = str(call())
        except UnsupportedOption as error:
            answer = f"refused: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as source:
        answer = source.read()
    os.waitpid(child, 0)
    return answer


def group(
    path: Path,
    controllers: str,
    handed_down: str = "",
    *,
    processes: str = "",
    root: bool = False,
    mine: bool = True,
) -> Path:
    """A directory that looks like a group of cgroup v2."""
    path.mkdir(parents=True, exist_ok=True)
    files = {
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": handed_down,
        "cgroup.procs": processes,
    }
    if not root:
        files["cgroup.type"] = "domain"
    for name, text in files.items():
        (path / name).write_text(text + "\n" if text else "")
    for entry in (path, *path.iterdir()):
        entry.chmod((0o777 if mine else 0o755) if entry.is_dir() or mine else 0o644)
    return path


def proc(tree: Path, cgroup: str, mountinfo: str) -> Path:
    """A directory that looks like ``/proc``; "TREE" stands for the imitation's path."""
    directory = tree / "proc" / "self"
    directory.mkdir(parents=True)
    (directory / "cgroup").write_text(cgroup)
    (directory / "mountinfo").write_text(mountinfo.replace("TREE", str(tree)))
    return tree / "proc"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user than the files'")

V2 = "31 23 0:28 / TREE/fs rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate\n"
ALL = "cpuset cpu io memory pids"
USER = "user.slice/user-1000.slice"


def test_v2_below_a_systemd_user(tree: Path) -> None:
    """Guards against a group beside the run that no limit reaches, or one further up than needed."""
    group(tree / "fs", ALL, ALL, root=True, mine=False)
    group(tree / "fs" / USER, ALL, ALL, mine=False)
    service = group(tree / "fs" / USER / "user@1000.service", "cpu memory pids", "memory pids")
    app = group(service / "app.slice", "memory pids", "memory pids")
    own = group(app / "run-1.scope", "memory pids", processes="1")
    found = hierarchies(proc(tree, f"0::/{own.relative_to(tree / 'fs')}\n", V2))
    assert found == Hierarchies({}, own, tree / "fs")
    assert as_nobody(lambda: [place.parent for place in places(frozenset({"memory"}), found)]) == str([app])
    assert as_nobody(lambda: [place.parent for place in places(frozenset({"memory", "cpu"}), found)]) == str(
        [service]
    )


@needs_root
def test_v2_of_a_login_session_is_refused(tree: Path) -> None:
    """Guards against moving processes between trees whose common ancestor is not the user's."""
    group(tree / "fs", ALL, ALL, root=True, mine=False)
    group(tree / "fs" / USER, ALL, ALL, mine=False)
    group(tree / "fs" / USER / "user@1000.service" / "app.slice", "memory pids", "memory pids")
    own = group(tree / "fs" / USER / "session-1.scope", "memory pids", processes="1", mine=False)
    found = Hierarchies({}, own, tree / "fs")
    answer = as_nobody(lambda: places(frozenset({"memory", "processes"}), found))
    assert answer.startswith("refused: a limit on memory, processes can't be enforced here")
    assert f"{own} is not writable" in answer
    assert "systemd-run --user --scope -p Delegate=yes" in answer


@needs_root
def test_v2_writes_need_the_ancestors_procs(tree: Path) -> None:
    """Guards against a place into which this user could not move a process."""
    own = group(tree / "fs", ALL, ALL)
    (own / "cgroup.procs").chmod(0o644)
    assert "is not writable" in as_nobody(lambda: places(frozenset({"cpu"}), Hierarchies({}, own, own)))


def test_v2_group_with_processes_hands_nothing_down(tree: Path) -> None:
    """Guards against the rule of no internal processes, and against overlooking that the root is exempt."""
    own = group(tree / "fs", ALL, "memory", processes="1\n2")
    found = Hierarchies({}, own, own)
    assert places(frozenset({"memory"}), found) == [Place(own, 2, frozenset({"memory"}))]
    with pytest.raises(UnsupportedOption, match="holds processes itself"):
        places(frozenset({"memory", "cpu"}), found)
    (own / "cgroup.type").unlink()
    assert places(frozenset({"memory", "cpu"}), found) == [Place(own, 2, frozenset({"memory", "cpu"}))]


def test_v2_without_the_controller(tree: Path) -> None:
    """Guards against looking for controllers above the mount point, and a refusal that names no cause."""
    own = group(tree / "fs" / "a", "memory")
    group(tree / "fs", "memory", "memory")
    group(tree, ALL, ALL)
    with pytest.raises(UnsupportedOption, match=r"fs/a lacks pids; .*fs lacks pids"):
        places(frozenset({"processes"}), Hierarchies({}, own, tree / "fs"))


V1 = """\
31 23 0:28 / TREE/fs rw - tmpfs tmpfs rw
32 31 0:29 / TREE/fs/cpu\\040x rw - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 /box TREE/fs/memory rw - cgroup cgroup rw,memory
34 31 0:31 /other TREE/fs/pids rw - cgroup cgroup rw,pids
35 31 0:32 / TREE/fs/systemd rw - cgroup cgroup rw,name=systemd
36 31 0:33 / TREE/fs/unified rw - cgroup2 cgroup2 rw
"""


def test_hybrid_layout(tree: Path) -> None:
    """Guards against mistakes with controllers mounted together, bind mounts, and escaped mount points."""
    files = proc(tree, "9:name=systemd:/s\n4:memory:/box/a/b\n3:pids:/box\n1:cpu,cpuacct:/c\n0::/u\n", V1)
    found = hierarchies(files)
    assert found.v1 == {
        "cpu": tree / "fs/cpu x/c",
        "cpuacct": tree / "fs/cpu x/c",
        "memory": tree / "fs/memory/a/b",
        "name=systemd": tree / "fs/systemd/s",
    }
    (tree / "fs/cpu x/c").mkdir(parents=True)
    (tree / "fs/memory/a/b").mkdir(parents=True)
    unified = group(tree / "fs/unified", "pids", "pids", root=True)
    group(unified / "u", "pids", processes="1")
    assert places(frozenset({"cpu", "memory", "processes"}), found) == [
        Place(tree / "fs/cpu x/c", 1, frozenset({"cpu"})),
        Place(tree / "fs/memory/a/b", 1, frozenset({"memory"})),
        Place(unified, 2, frozenset({"pids"})),
    ]


@needs_root
def test_v1_needs_root(tree: Path) -> None:
    """Guards against a refusal that does not say what would help."""
    (tree / "memory").mkdir()
    answer = as_nobody(lambda: places(frozenset({"memory"}), Hierarchies({"memory": tree / "memory"})))
    assert answer == (
        "refused: a limit on memory can't be enforced here: the cgroup v1 directory "
        f"{tree / 'memory'} is not writable; run as root"
    )


@pytest.mark.parametrize("cgroup", ["", "0::/../../elsewhere\n"])
def test_no_group_in_sight(tree: Path, cgroup: str) -> None:
    """Guards against a group made far from this process when its own is not visible."""
    found = hierarchies(proc(tree, cgroup, V2))
    assert found.v2 is None
    with pytest.raises(UnsupportedOption, match="mount cgroup2"):
        places(frozenset({"cpu"}), found)


def test_control_files_of_v2(tree: Path) -> None:
    """Guards against wrong units, swap as a way around the memory limit, and a quota the kernel refuses."""
    for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max"):
        (tree / name).write_text("")
    two = Group(tree, 2)
    two.limit_memory(64)
    two.limit_cpu(1.5)
    two.limit_processes(7)
    assert (tree / "memory.max").read_text() == str(64 << 20)
    assert (tree / "memory.swap.max").read_text() == "0"
    assert (tree / "cpu.max").read_text() == "150000 100000"
    assert (tree / "pids.max").read_text() == "7"
    two.limit_cpu(0.001)
    assert (tree / "cpu.max").read_text().startswith("1000 ")


def test_measurements_of_v2(tree: Path) -> None:
    """Guards against wrong units, and against numbers where nothing is measured."""
    two = Group(tree, 2)
    assert (two.peak_memory_mib(), two.cpu_seconds(), two.oom_killed()) == (None, None, False)
    (tree / "memory.peak").write_text(f"{3 << 20}\n")
    (tree / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n")
    (tree / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n")
    assert (two.peak_memory_mib(), two.cpu_seconds(), two.oom_killed()) == (3.0, 1.5, False)
    (tree / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert two.oom_killed()


def test_failure_leaves_nothing(tree: Path) -> None:
    """Guards against directories left behind when the kernel refuses a limit, here for want of its files."""
    (tree / "cpu").mkdir()
    (tree / "memory").mkdir()
    found = Hierarchies({"cpu": tree / "cpu", "memory": tree / "memory"})
    with pytest.raises(UnsupportedOption, match=r"cpu\.cfs_period_us: No such file"):
        _create("x", {"cpu": 1, "memory": 64}, found)
    assert sorted(tree.rglob("*")) == [tree / "cpu", tree / "memory"]


def test_only_groups_of_sandboxes_are_removed(tree: Path) -> None:
    """Guards against a mistaken path, whose processes would be killed."""
    for path in (
        tree,
        tree / "metaflow-sandbox-x" / "..",
        Path("/sys/fs/cgroup"),
        Path("metaflow-sandbox-x"),
    ):
        with pytest.raises(UnsupportedOption, match="no cgroup of a sandbox"):
            remove_paths([tree / "metaflow-sandbox-gone", path])
    remove_paths([tree / "metaflow-sandbox-gone"])


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "x" * 65, "-x", "x\n"])
def test_names_are_checked(name: str) -> None:
    """Guards against a name that leads elsewhere in the tree."""
    with pytest.raises(UnsupportedOption, match="can't name a cgroup"):
        Cgroup.create(name, memory_mib=64, cpu_cores=None, processes=None)


@pytest.mark.parametrize("limits", [(0, None, None), (None, 0.0, None), (None, None, -1)])
def test_limits_let_something_run(limits: tuple[int | None, float | None, int | None]) -> None:
    """Guards against 0 being taken for no limit, or for one that kills at once."""
    with pytest.raises(UnsupportedOption, match="lets nothing run"):
        Cgroup.create("x", memory_mib=limits[0], cpu_cores=limits[1], processes=limits[2])
