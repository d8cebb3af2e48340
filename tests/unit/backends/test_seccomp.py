"""The seccomp filter, run by an interpreter of classic BPF: every decision, on both architectures."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.seccomp import filter_program, supported
from metaflow_extensions.sandbox.backends.seccomp_calls import ARCHITECTURES
from metaflow_extensions.sandbox.errors import BackendUnavailable

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT = (0x50000 | code for code in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
both = pytest.mark.parametrize("machine", sorted(ARCHITECTURES))


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter returns for a call, as the kernel would run it."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    arch = ARCHITECTURES[machine].audit if audit is None else audit
    data = struct.pack("<IIQ6Q", number, arch, 0, *values)
    program = [struct.unpack_from("=HBBI", filter_program(machine), at) for at in _places(machine)]
    place, loaded = 0, 0
    while True:
        code, then, otherwise, value = program[place]
        place += 1
        if code == 0x20:
            loaded = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: loaded == value, 0x25: loaded > value, 0x45: bool(loaded & value)}[code]
            place += then if holds else otherwise


def _places(machine: str) -> range:
    return range(0, len(filter_program(machine)), 8)


@both
def test_denied_calls_are_denied(machine: str) -> None:
    """A jump that is off by one lets its neighbour through."""
    denied = ARCHITECTURES[machine].denied
    assert {name: verdict(machine, number) for name, number in denied.items()} == dict.fromkeys(denied, EPERM)


@both
def test_everything_else_is_allowed(machine: str) -> None:
    """A filter that refuses too much breaks honest steps in ways that nobody understands."""
    calls = ARCHITECTURES[machine]
    special = {*calls.denied.values(), calls.clone, calls.clone3, calls.ioctl, calls.personality}
    special |= {calls.socket, calls.socketpair}
    others = [number for number in range(calls.newest + 1) if number not in special]
    assert {number for number in others if verdict(machine, number) != ALLOW} == set()


@both
def test_unknown_and_opaque_calls_do_not_exist(machine: str) -> None:
    """A call newer than the list, or with flags behind a pointer, can do anything; libc falls back."""
    calls = ARCHITECTURES[machine]
    assert [verdict(machine, number) for number in (calls.clone3, calls.newest + 1, 0xFFFFFF)] == [ENOSYS] * 3


@both
def test_clone_makes_no_namespaces(machine: str) -> None:
    """Threads and children need clone, which also makes namespaces."""
    clone = ARCHITECTURES[machine].clone
    thread, child = 0x3D0F00, 0x1200011
    namespaces = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert [verdict(machine, clone, flags) for flags in (thread, child)] == [ALLOW, ALLOW]
    assert [verdict(machine, clone, child | flag) for flag in namespaces] == [EPERM] * 7
    assert verdict(machine, clone, (1 << 40) | child | 0x10000000) == EPERM


@both
def test_only_plain_socket_families_are_left(machine: str) -> None:
    """AF_VSOCK reaches the hypervisor from every network namespace; rare families are rarely audited."""
    calls = ARCHITECTURES[machine]
    for number in (calls.socket, calls.socketpair):
        plain = {family for family in range(64) if verdict(machine, number, family) == ALLOW}
        assert plain == {1, 2, 10, 16}
        # The kernel reads an int: high bits must not turn a refused family into another.
        assert verdict(machine, number, (1 << 32) | 40) == EAFNOSUPPORT


@both
def test_terminals_are_not_typed_into(machine: str) -> None:
    """TIOCSTI with high bits set got past filters that compared 64 bits (CVE-2019-10063)."""
    ioctl = ARCHITECTURES[machine].ioctl
    for request in (0x5412, 0x541C):
        assert verdict(machine, ioctl, 0, request) == EPERM
        assert verdict(machine, ioctl, 0, (1 << 32) | request) == EPERM
    assert verdict(machine, ioctl, 0, 0x5413) == ALLOW


@both
def test_personality_can_only_be_asked_for(machine: str) -> None:
    """ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC take away what makes exploits hard."""
    personality = ARCHITECTURES[machine].personality
    answers = [verdict(machine, personality, value) for value in (0, 0xFFFFFFFF, 0x40000, 0x400000, 8)]
    assert answers == [ALLOW, ALLOW, EPERM, EPERM, EPERM]


@both
def test_foreign_architectures_are_killed(machine: str) -> None:
    """Their numbers mean other calls."""
    i386, other = 0x40000003, next(calls.audit for name, calls in ARCHITECTURES.items() if name != machine)
    assert [verdict(machine, 20, audit=audit) for audit in (i386, other, 0)] == [KILL] * 3


def test_x32_is_refused() -> None:
    """x32 has the audit value of x86_64 and other numbers, 512 and above."""
    assert [verdict("x86_64", 0x40000000 | number) for number in (0, 39, 165, 520)] == [EPERM] * 4


@both
def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    """A wrong number denies a harmless call and lets the meant one through."""
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no {header}: apt install linux-libc-dev")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    calls = ARCHITECTURES[machine]
    special = ("clone", "clone3", "ioctl", "socket", "socketpair", "personality")
    ours = {**calls.denied, **{name: getattr(calls, name) for name in special}}
    # Older headers lack the newest calls.
    assert {name: int(found[name]) for name in ours if name in found} == {
        name: number for name, number in ours.items() if name in found
    }
    assert len([name for name in ours if name in found]) > 50


def test_both_architectures_deny_the_same() -> None:
    """A call forgotten in one table is open on half of the machines."""
    x86_only = {
        "modify_ldt",
        "uselib",
        "_sysctl",
        "create_module",
        "get_kernel_syms",
        "query_module",
        "iopl",
        "ioperm",
    }
    assert set(ARCHITECTURES["x86_64"].denied) - x86_only == set(ARCHITECTURES["aarch64"].denied)


def test_unknown_machine_is_refused_by_name() -> None:
    """No filter must not mean running without one."""
    assert not supported("riscv64")
    with pytest.raises(BackendUnavailable, match=r"'riscv64'.*aarch64 or x86_64"):
        filter_program("riscv64")
