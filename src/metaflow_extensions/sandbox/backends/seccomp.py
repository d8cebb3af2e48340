"""The seccomp filter of the bubblewrap backend, as the classic BPF program that ``bwrap --seccomp`` loads.

Written without libseccomp: a list of comparisons whose jumps are labels until they are resolved.
Arguments are compared by their low 32 bits, as the kernel does for all those inspected here, so
that a value with high bits set is not let through.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from ..errors import BackendUnavailable
from .seccomp_calls import ARCHITECTURES, Calls

# linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# linux/seccomp.h: actions, and offsets in struct seccomp_data (little-endian on both architectures).
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24

_X32_BIT = 0x40000000
# linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_PERSONALITIES = (0, 0xFFFFFFFF)  # PER_LINUX, and the query of the present one


class _Step(NamedTuple):
    """One instruction; the jumps are names of labels, "" is the next instruction."""

    code: int
    value: int
    then: str = ""
    otherwise: str = ""
    label: str = ""


def supported(machine: str | None = None) -> bool:
    """Whether there is a filter for that ``platform.machine()``; None is this machine."""
    return (machine or platform.machine()) in ARCHITECTURES


@cache
def filter_program(machine: str | None = None) -> bytes:
    """Bytes of ``struct sock_filter`` for that ``platform.machine()``; None is this machine.

    Raises BackendUnavailable for an architecture without a table of calls.
    """
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise BackendUnavailable(
            f"the bubblewrap backend has no seccomp filter for {name!r}: run on "
            f"{' or '.join(sorted(ARCHITECTURES))}, or choose another backend"
        )
    return _assemble(list(_steps(ARCHITECTURES[name])))


def _steps(calls: Calls) -> Iterator[_Step]:
    yield _Step(_LOAD, _ARCHITECTURE)
    yield _Step(_JUMP_EQUAL, calls.audit, otherwise="kill")
    yield _Step(_LOAD, _NUMBER)
    # x32 has the same architecture value and a second set of numbers, which no table here covers.
    if calls.x32:
        yield _Step(_JUMP_ANY_BIT, _X32_BIT, then="deny")
    # A call that nobody has reviewed is one that this kernel does not have.
    yield _Step(_JUMP_GREATER, calls.newest, then="unknown")
    # Its flags are behind a pointer, which a filter cannot follow; libc falls back to clone.
    yield _Step(_JUMP_EQUAL, calls.clone3, then="unknown")
    for number in sorted(calls.denied.values()):
        yield _Step(_JUMP_EQUAL, number, then="deny")
    for number, label in (
        (calls.clone, "clone"),
        (calls.ioctl, "ioctl"),
        (calls.socket, "socket"),
        (calls.socketpair, "socket"),
        (calls.personality, "personality"),
    ):
        yield _Step(_JUMP_EQUAL, number, then=label)
    yield _Step(_RETURN, _ALLOW)

    yield _Step(_LOAD, _ARGUMENT_0, label="clone")
    yield _Step(_JUMP_ANY_BIT, _NAMESPACES, then="deny", otherwise="allow")
    yield _Step(_LOAD, _ARGUMENT_1, label="ioctl")
    yield _Step(_JUMP_EQUAL, _TIOCSTI, then="deny")
    yield _Step(_JUMP_EQUAL, _TIOCLINUX, then="deny", otherwise="allow")
    yield _Step(_LOAD, _ARGUMENT_0, label="socket")
    for family in _FAMILIES:
        yield _Step(_JUMP_EQUAL, family, then="allow")
    yield _Step(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
    yield _Step(_LOAD, _ARGUMENT_0, label="personality")
    for value in _PERSONALITIES:
        yield _Step(_JUMP_EQUAL, value, then="allow")
    yield _Step(_RETURN, _ERRNO | errno.EPERM, label="deny")
    yield _Step(_RETURN, _ERRNO | errno.ENOSYS, label="unknown")
    yield _Step(_RETURN, _KILL_PROCESS, label="kill")
    yield _Step(_RETURN, _ALLOW, label="allow")


def _assemble(steps: list[_Step]) -> bytes:
    places = {step.label: place for place, step in enumerate(steps) if step.label}
    program = bytearray()
    for place, step in enumerate(steps):
        jumps = [places[name] - place - 1 if name else 0 for name in (step.then, step.otherwise)]
        # struct.pack refuses a jump of more than 255 instructions, which is all that the format holds.
        program += struct.pack("=HBBI", step.code, *jumps, step.value)
    return bytes(program)
