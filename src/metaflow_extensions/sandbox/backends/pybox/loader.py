"""The first program in a pybox container: arranges what the command sees, starts it, says how it ended.

pybox gives a command the host's user 0, every capability in its namespaces, a /proc/sys that it may write
and the host's own device nodes. What is put right here holds before the command starts, and the command
keeps no capability to undo it. Python >= 3.8 with ctypes; the numbers are those of Linux on x86-64.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
import threading
from typing import Any, BinaryIO, Dict, List

SIZE = struct.Struct("!I")
STATUS = struct.Struct("!I")  # as os.wait gives it
NOT_FOUND, NOT_EXECUTABLE = 127, 126
SPACE = "/sandbox"  # the one file system that can be written to
BOUND = {"/tmp": "tmp", "/var/tmp": "var-tmp", "/dev/shm": "shm"}
OLD_ROOT = "/.old_root"
# linux/mount.h; statvfs has the first four as mount has them.
READ_ONLY, NO_SUID, NO_DEVICES, KEPT_FLAGS, REMOUNT, BIND, DETACH = 1, 2, 4, 15, 32, 4096, 2
# linux/prctl.h and linux/capability.h
NO_NEW_PRIVILEGES, DROP_FROM_BOUND, SECCOMP, FILTER, CAPABILITIES_3 = 38, 24, 22, 2, 0x20080522
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
INTERFACE = struct.Struct("16sh22x")  # its name and its flags

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the command that comes over standard input, a socket, and report its wait status there."""
    channel = socket.socket(fileno=0)
    channel.sendall(b"+")
    descriptors = array.array("i")
    head, control, _, _ = channel.recvmsg(SIZE.size, socket.CMSG_SPACE(3 * descriptors.itemsize))
    if not head:
        return  # nobody is there any more
    descriptors.frombytes(control[0][2])
    incoming = channel.makefile("rb")
    job = json.loads(incoming.read(SIZE.unpack(head)[0]))
    try:
        arrange(job, incoming)
    except OSError as error:
        channel.sendall(b"-" + str(error).encode(errors="replace"))
        return
    channel.sendall(b"+")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # any other is lost on a first process by itself
    pid = os.fork()
    if pid == 0:
        run(job, list(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    threading.Thread(target=end_with, args=(channel,), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == pid:
            break
    channel.sendall(STATUS.pack(status))
    os._exit(0)


def end_with(channel: socket.socket) -> None:
    """End, and all others with it, when nobody is there any more to be told."""
    channel.recv(1)
    os._exit(1)


def arrange(job: Dict[str, Any], incoming: BinaryIO) -> None:
    """Make the view: one file system to write to, of ``job["disk"]`` MiB, and nothing of the host's."""
    if os.path.exists(OLD_ROOT):
        raise OSError("pybox left the host's file system in sight")
    os.makedirs(SPACE, exist_ok=True)
    options = "size=%dm,mode=755" % job["disk"]
    call("mount", b"tmpfs", SPACE.encode(), b"tmpfs", ctypes.c_ulong(NO_SUID | NO_DEVICES), options.encode())
    for name in ("work", "home", *BOUND.values()):
        os.mkdir(os.path.join(SPACE, name))
    for place, name in BOUND.items():
        os.makedirs(place, exist_ok=True)
        bind(os.path.join(SPACE, name), place)
    for target, size, mode in job["files"]:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            copy(incoming, file, size)
        os.chmod(target, mode)
    call("umount2", b"/sys", DETACH)
    for name in os.listdir("/dev"):
        if stat.S_ISCHR(os.lstat("/dev/" + name).st_mode):
            make_read_only("/dev/" + name)
    for name in os.listdir("/proc"):
        mode = os.lstat("/proc/" + name).st_mode
        if stat.S_ISREG(mode) and not mode & stat.S_IROTH:
            bind("/dev/null", "/proc/" + name)  # what the host keeps for its root, as the command is one
    for place in ("/dev", "/proc", "/"):
        make_read_only(place)
    raise_loopback()


def copy(incoming: BinaryIO, file: BinaryIO, size: int) -> None:
    """Write the next ``size`` bytes that come in."""
    while size:
        data = incoming.read(min(size, 1 << 20))
        if not data:
            raise OSError("a file did not come in whole")
        file.write(data)
        size -= len(data)


def run(job: Dict[str, Any], descriptors: List[int]) -> None:
    """Become the command; never returns."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, 4096)
    try:
        os.setsid()
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        give_up(bytes.fromhex(job["filter"]))
        os.chdir(job["cwd"])
        os.execvpe(job["argv"][0], job["argv"], job["env"])
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {job['argv'][0]!r}: {error}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


def give_up(program: bytes) -> None:
    """Drop every capability for good, and take the filter on system calls."""
    control(NO_NEW_PRIVILEGES, 1)
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        control(DROP_FROM_BOUND, capability)
    call("capset", struct.pack("Ii", CAPABILITIES_3, 0), bytes(24))
    steps = ctypes.create_string_buffer(program, len(program))
    packed = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(steps))
    whole = ctypes.create_string_buffer(packed, len(packed))
    control(SECCOMP, FILTER, ctypes.addressof(whole))


def make_read_only(place: str) -> None:
    """What is mounted there, for good; a device can be used all the same."""
    flags = os.statvfs(place).f_flag & KEPT_FLAGS | READ_ONLY | NO_SUID
    call("mount", None, place.encode(), None, ctypes.c_ulong(REMOUNT | BIND | flags), None)


def bind(source: str, place: str) -> None:
    """Show what is at the one place at the other as well."""
    call("mount", source.encode(), place.encode(), None, ctypes.c_ulong(BIND), None)


def raise_loopback() -> None:
    """Let programs inside talk to each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        found = fcntl.ioctl(any_socket, GET_FLAGS, INTERFACE.pack(b"lo", 0))
        fcntl.ioctl(any_socket, SET_FLAGS, INTERFACE.pack(b"lo", INTERFACE.unpack(found)[1] | UP))


def control(option: int, value: int, more: int = 0) -> None:
    """Call prctl. Raises OSError."""
    call("prctl", option, *map(ctypes.c_ulong, (value, more, 0, 0)))


def call(name: str, *arguments: Any) -> None:
    """Call the C library. Raises OSError."""
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, "%s%r: %s" % (name, arguments, os.strerror(number)))


if __name__ == "__main__":
    main()
