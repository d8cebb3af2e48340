"""What the seccomp filter refuses, and the numbers of those calls on each architecture.

Source of the numbers: the kernel's ``asm/unistd_64.h`` for x86_64 and ``asm-generic/unistd.h`` for
aarch64, Linux 6.18. The list follows the default profile of the Docker Engine for a container
without capabilities, and adds what it still allows that a step has no use for (io_uring, ptrace,
userfaultfd, AF_VSOCK and other rare socket families).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_COMMON = {
    # The same on every architecture since Linux 5.1.
    "pidfd_getfd": 438,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "open_tree_attr": 467,
}

_X86_64 = {
    # The kernel's key ring is shared by all containers of a user.
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    # Large and often attacked parts of the kernel.
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "modify_ldt": 154,
    "fanotify_init": 300,
    "lookup_dcookie": 212,
    "nfsservctl": 180,
    "uselib": 134,
    "_sysctl": 156,
    # Files by handle instead of by name: a way around mount namespaces.
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    # Other processes' memory and descriptors.
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    # Namespaces and mounts.
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "chroot": 161,
    "unshare": 272,
    "setns": 308,
    "sethostname": 170,
    "setdomainname": 171,
    # The machine itself: its code, disks, clocks, ports, log and terminals.
    "create_module": 174,
    "init_module": 175,
    "delete_module": 176,
    "get_kernel_syms": 177,
    "query_module": 178,
    "finit_module": 313,
    "kexec_load": 246,
    "kexec_file_load": 320,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "acct": 163,
    "quotactl": 179,
    "settimeofday": 164,
    "clock_settime": 227,
    "clock_adjtime": 305,
    "adjtimex": 159,
    "iopl": 172,
    "ioperm": 173,
    "syslog": 103,
    "vhangup": 153,
}

_AARCH64 = {
    "add_key": 217,
    "request_key": 218,
    "keyctl": 219,
    "bpf": 280,
    "perf_event_open": 241,
    "userfaultfd": 282,
    "fanotify_init": 262,
    "lookup_dcookie": 18,
    "nfsservctl": 42,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "ptrace": 117,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "kcmp": 272,
    "mount": 40,
    "umount2": 39,
    "pivot_root": 41,
    "chroot": 51,
    "unshare": 97,
    "setns": 268,
    "sethostname": 161,
    "setdomainname": 162,
    "init_module": 105,
    "delete_module": 106,
    "finit_module": 273,
    "kexec_load": 104,
    "kexec_file_load": 294,
    "swapon": 224,
    "swapoff": 225,
    "reboot": 142,
    "acct": 89,
    "quotactl": 60,
    "settimeofday": 170,
    "clock_settime": 112,
    "clock_adjtime": 266,
    "adjtimex": 171,
    "syslog": 116,
    "vhangup": 58,
}


@dataclass(frozen=True)
class Calls:
    """The numbers of one architecture: ``denied`` always, the others depending on their arguments.

    ``audit`` is the kernel's AUDIT_ARCH value; ``newest`` the highest number that was reviewed.
    """

    audit: int
    denied: Mapping[str, int]
    clone: int
    clone3: int
    ioctl: int
    socket: int
    socketpair: int
    personality: int
    newest: int
    x32: bool


ARCHITECTURES: Mapping[str, Calls] = {
    "x86_64": Calls(
        audit=0xC000003E,
        denied={**_X86_64, **_COMMON},
        clone=56,
        clone3=435,
        ioctl=16,
        socket=41,
        socketpair=53,
        personality=135,
        newest=469,
        x32=True,
    ),
    "aarch64": Calls(
        audit=0xC00000B7,
        denied={**_AARCH64, **_COMMON},
        clone=220,
        clone3=435,
        ioctl=29,
        socket=198,
        socketpair=199,
        personality=92,
        newest=469,
        x32=False,
    ),
}
