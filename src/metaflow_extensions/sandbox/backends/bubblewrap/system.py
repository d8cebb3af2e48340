"""The part of the host that every sandbox shows: programs, libraries, and named files of /etc."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..python_scope import SYSTEM_DIRECTORIES
from .entries import Entry, Kind, mirrored

# Never /etc as a whole: it holds keys, passwords and the configuration of other programs.
_ETC = (
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "alternatives",
    "mime.types",
    "fonts",
    "ssl/certs",
    "ssl/openssl.cnf",
    "ca-certificates/extracted",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "crypto-policies/back-ends",
)
_ETC_NETWORK = ("resolv.conf", "hosts", "services", "protocols", "gai.conf")

# Files of /proc about the whole machine, as container engines mask them.
_PROC_MASKED = (
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "latency_stats",
    "mtrr",
    "sched_debug",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
)


@cache
def system_entries(network: bool) -> tuple[Entry, ...]:
    """What the system shows; looked up once in the life of this process."""
    return tuple(_entries(network))


@cache
def proc_entries() -> tuple[Entry, ...]:
    """What covers a fresh /proc, so that it is about the sandbox and not about the machine."""
    masked = [f"/proc/{name}" for name in _PROC_MASKED if _open_to_others(Path("/proc", name))]
    return (
        Entry(Kind.READ_ONLY, "/proc/sys", "/proc/sys"),
        *(Entry(Kind.READ_ONLY, "/dev/null", place) for place in masked),
    )


def _entries(network: bool) -> Iterator[Entry]:
    for place in SYSTEM_DIRECTORIES:
        yield from mirrored(place)
    for name in (*_ETC, *(_ETC_NETWORK if network else ())):
        place = Path("/etc", name)
        end = place.resolve()
        if place.is_symlink() and any(directory in end.parents for directory in SYSTEM_DIRECTORIES):
            yield from mirrored(place)
        elif end.is_dir():
            yield Entry(Kind.READ_ONLY, str(end), str(place))
        elif end.exists():
            # A copy costs less than a mount; resolv.conf, say, is often a link into /run, which is not shown.
            yield Entry(Kind.COPY, str(end), str(place))


def _open_to_others(place: Path) -> bool:
    # Nobody inside is root or holds a capability, so that the others need no cover, which costs a mount each.
    return place.exists() and bool(place.stat().st_mode & 0o006)
