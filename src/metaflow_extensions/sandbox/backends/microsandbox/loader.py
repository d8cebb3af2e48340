"""The first program of each command in a virtual machine, which ends all that the command leaves.

microsandbox's agent tells no signal that ended a command, kills no further than its process group, and adds
to an environment rather than replacing it. What to run comes over standard input; what follows is the
command's own. SIGTERM ends everything. Python >= 3.8.
"""
# Every command waits for its imports: few, and small ones.
# ruff: noqa: PERF203, PTH103, PTH208, PTH123, S606, SIM105

from __future__ import annotations

import _signal  # signal itself makes enumerations first
import os
import time

SIZE = 8  # decimal digits
NOT_FOUND, NOT_EXECUTABLE, KILLED = 127, 126, 137
SUBREAPER = 36  # linux/prctl.h: PR_SET_CHILD_SUBREAPER
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def pack(
    cwd: str, stdin: bool, directories: list[str], inherited: list[str], argv: list[str], env: dict[str, str]
) -> bytes:
    """What to run, as ``main`` reads it; no word may hold a NUL.

    ``directories`` are made first, private ones; ``inherited`` are variables of the agent's that it keeps.
    """
    lists = [directories, inherited, argv, [word for pair in env.items() for word in pair]]
    words = [cwd, "1" if stdin else "", *(word for some in lists for word in (str(len(some)), *some))]
    job = b"\0".join(map(os.fsencode, words))
    return b"%0*d" % (SIZE, len(job)) + job


def main() -> None:
    """Run what standard input says, and exit as it did."""
    adopt_orphans()
    _signal.signal(_signal.SIGTERM, lambda _number, _frame: finish(KILLED))
    words = receive(int(receive(SIZE))).split(b"\0")
    cwd, stdin, directories, inherited, argv, pairs = parse(words)
    env = dict(zip(pairs[::2], pairs[1::2]))  # noqa: B905 -- Python 3.8 knows no strict=
    kept = {name: os.environb[name] for name in inherited if name in os.environb}
    env = {b"PATH": os.environb.get(b"PATH", PATH.encode()), **kept, **env}
    for directory in directories:
        os.makedirs(directory, 0o700, exist_ok=True)
    nothing = os.open(os.devnull, os.O_RDWR)
    pid = os.fork()
    if pid == 0:
        if not stdin:
            os.dup2(nothing, 0)
        run(cwd, argv, env)
    os.dup2(nothing, 0)  # or the command's own end of its input would not be seen
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            break
    finish(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def receive(size: int) -> bytes:
    """So many bytes and no more: the rest is the command's."""
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            os._exit(KILLED)  # the launcher is gone
        data += more
    return data


def parse(words: list[bytes]) -> tuple:  # type: ignore[type-arg]
    """Directory, whether there is input, and the four lists."""
    lists, at = [], 2
    while at < len(words):
        end = at + 1 + int(words[at])
        lists.append(words[at + 1 : end])
        at = end
    return (words[0], bool(words[1]), *lists)


def run(cwd: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Become the command; never returns."""
    try:
        os.setsid()
        for number in (_signal.SIGTERM, _signal.SIGPIPE, _signal.SIGXFSZ):
            _signal.signal(number, _signal.SIG_DFL)
        os.closerange(3, 256)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {os.fsdecode(argv[0])!r}: {error}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


def adopt_orphans() -> None:
    """Become the parent of what the command leaves behind; a Python without ctypes can't."""
    try:
        import ctypes
    except ImportError:
        return
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def finish(code: int) -> None:
    """Kill what is left, and exit; never returns."""
    while True:
        left = below(os.getpid())
        for pid in left:
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            if not left:
                os._exit(code)
        time.sleep(0.001)


def below(root: int) -> list[int]:
    """Every process that descends from that one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        more = children.get(waiting.pop(), [])
        found += more
        waiting += more
    return found


if __name__ == "__main__":
    main()
