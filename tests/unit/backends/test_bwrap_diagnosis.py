"""Why bubblewrap can't run: one cause, and one remedy, for each machine that it can't run on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.bubblewrap.diagnosis import Host, explain, foreseen

SETUP = "bwrap could not set up the sandbox: bwrap: "


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (Host(system="darwin"), "needs Linux.*another backend"),
        (Host(machine="riscv64"), "no seccomp filter for 'riscv64'.*x86_64 or aarch64"),
    ],
)
def test_hopeless_machines_are_told_before_anything_is_tried(host: Host, words: str) -> None:
    """An error from deep inside says nothing on a machine that never could."""
    assert re.search(words, foreseen(host) or "")


def test_linux_is_tried() -> None:
    """A guess must not keep a user from what would work."""
    assert foreseen(Host(max_user_namespaces=0, apparmor_restricts=1, container=True)) is None


@pytest.mark.parametrize(
    ("host", "said", "remedy"),
    [
        (
            Host(max_user_namespaces=0),
            "Creating new namespace failed: No space left on device",
            r"sysctl user\.max_user_namespaces=\d+",
        ),
        (
            Host(max_user_namespaces=9, unprivileged_userns_clone=0),
            "No permissions to create new namespace",
            r"sysctl kernel\.unprivileged_userns_clone=1",
        ),
        (
            Host(max_user_namespaces=9, apparmor_restricts=1),
            "setting up uid map: Permission denied",
            r"AppArmor.*bubblewrap.*'userns,'.*BWRAP_PATH.*sysctl kernel\.apparmor_restrict_\w+=0",
        ),
        (
            Host(container=True),
            "Can't mount proc on /newroot/proc: Operation not permitted",
            "container.*--privileged.*systempaths=unconfined",
        ),
        (
            Host(root=True, container=True),
            "Creating new namespace failed: Operation not permitted",
            "container.*--cap-add SYS_ADMIN",
        ),
        (
            Host(root=True),
            "Creating new namespace failed: Operation not permitted",
            "CAP_SYS_ADMIN.*normal user",
        ),
        (Host(root=True), "setpriv: unrecognized option: reuid", "apt install util-linux"),
        (Host(), "prctl(PR_SET_SECCOMP): Invalid argument", "CONFIG_SECCOMP_FILTER"),
        (Host(), "something new", "mend what it says"),
    ],
)
def test_failure_names_cause_and_remedy(host: Host, said: str, remedy: str) -> None:
    """bwrap's own words name neither the setting nor the command that mends it."""
    told = explain(SETUP + said, host)
    assert re.search(remedy, told)
    assert said in told


def test_settings_are_read_where_they_exist(tmp_path: Path) -> None:
    """A kernel without a setting has nothing to complain about."""
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("0\n")
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/unprivileged_userns_clone").write_text("not a number\n")
    here = Host.here(tmp_path)
    assert (here.max_user_namespaces, here.unprivileged_userns_clone, here.apparmor_restricts) == (
        0,
        None,
        None,
    )
