"""Who a command runs as, and how it gets there.

Started by a normal user, bwrap makes a user namespace in which that user is uid 1000. Started by
root it makes none, because an unprivileged bwrap could not show an interpreter that lives below
/root: bwrap mounts with root's own privileges, and ``setpriv`` then becomes a uid that owns nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import BackendUnavailable

# systemd's "Users, Groups, UIDs and GIDs" lists 1879048192 to 2147483647 as used by nothing.
_FIRST, _COUNT = 0x70000000, 0x10000000
_SYSTEM_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
SETPRIV_REMEDY = "setpriv is missing, which drops root's privileges inside: apt install util-linux"


@dataclass(frozen=True)
class Identity:
    """The uid and gid inside, the flags of bwrap that they need, and the words before the command."""

    uid: int
    gid: int
    flags: Sequence[str]
    prefix: Sequence[str] = ()


def identity(sandbox_id: str, euid: int | None = None) -> Identity:
    """The identity of a sandbox, which under root is its own so that its processes are counted apart.

    Raises BackendUnavailable where root cannot become another user.
    """
    if (os.geteuid() if euid is None else euid) != 0:
        flags = ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
        return Identity(1000, 1000, flags)
    setpriv = shutil.which("setpriv", path=_SYSTEM_PATH)
    if not setpriv:
        raise BackendUnavailable(SETPRIV_REMEDY)
    number = int(sandbox_id.rpartition("-")[2], 16)
    uid, gid = (unused(number, Path(f"/proc/self/{kind}_map").read_text()) for kind in ("uid", "gid"))
    flags = ["--cap-drop", "ALL"]
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        flags += ["--cap-add", capability]
    prefix = [setpriv, "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
    prefix += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"]
    return Identity(uid, gid, flags, prefix)


def unused(number: int, id_map: str) -> int:
    """An id that nobody uses, chosen by a number; ``id_map`` is the text of /proc/self/uid_map.

    In a container that maps few ids it is one of the upper half of the largest range.
    """
    ranges = [(int(first), int(count)) for first, _, count in (line.split() for line in id_map.splitlines())]
    first, count = max(ranges, key=lambda each: each[1], default=(0, 0))
    if first + count >= _FIRST + _COUNT:
        return _FIRST + number % _COUNT
    if count < 2:
        raise BackendUnavailable(
            "root of this container is its only user, so a sandbox can't run as another one: "
            "map more ids (--uidmap), or run as a normal user"
        )
    return first + count - 1 - number % (count // 2)
