"""What a service runs: starts one command on the launcher's pipes, and ends as it ends.

It stays beside the command: of a service whose process shows another command line, MetalBox takes
the process id for one used again, and neither limits nor stops it. Standard library only.
"""
# pathlib would take longer to import than all of this to run.
# ruff: noqa: PTH108, PTH120, PTH123, S606

from __future__ import annotations

import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

JOB, ALIVE, IN, OUT, ERR = "job.json", "alive", "in", "out", "err"
STARTED, FAILED = b"+", b"!"  # first byte of what is written to ALIVE, whose end is the runner's own


def main() -> int:
    """Run the job of the working directory; the exit code, 128 + n when a signal ended it."""
    with open(JOB, encoding="ascii") as file:
        job = json.load(file)
    os.unlink(JOB)
    alive = os.open(ALIVE, os.O_WRONLY)
    streams = [os.open(IN if job["stdin"] else os.devnull, os.O_RDONLY)]
    streams += [os.open(OUT, os.O_WRONLY), os.open(ERR, os.O_WRONLY)]
    failed, failure = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(execute(job, streams, failure))
    for descriptor in (failure, *streams):
        os.close(descriptor)
    message = os.read(failed, 4096)
    os.write(alive, FAILED + message if message else STARTED)
    status = os.waitpid(pid, 0)[1]
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def execute(job: Mapping[str, Any], streams: Sequence[int], failure: int) -> int:
    """Become the command; returns only when that is impossible."""
    try:
        # A step that signals its whole group must not reach the runner.
        os.setsid()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
            signal.signal(ignored, signal.SIG_DFL)
        os.chdir(job["cwd"])
        os.execvpe(job["argv"][0], job["argv"], job["env"])
    except (OSError, ValueError) as error:
        os.write(failure, str(error).encode(errors="replace")[:4000])
    return 127


if __name__ == "__main__":
    os.chdir(os.path.dirname(sys.argv[0]))
    os._exit(main())
