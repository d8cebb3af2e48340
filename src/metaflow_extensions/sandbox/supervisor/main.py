"""The supervisor's process: ``python -I main.py DIRECTORY``, the lifeline on standard input.

It forks at once, before anything is imported that minds: the parent becomes the reaper, which only
waits and removes what a killed supervisor leaves behind; the child is the supervisor.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Read the run's settings, then serve its tasks until the lifeline ends."""
    line = read_line(0)
    if not line:
        # The run was killed before it could say more than where its directory is.
        import shutil

        shutil.rmtree(sys.argv[1])
        return
    settings = json.loads(line)
    # The supervisor holds the one end as long as it lives, and says on it that it is closing.
    reaper_end, supervisor_end = os.pipe()
    supervisor = os.fork()
    # The scheduler's own search path, without the flow's directory: nothing there can shadow a module.
    sys.path[:] = settings["sys_path"]
    if supervisor:
        os.close(supervisor_end)
        os.close(settings["control"])
        from metaflow_extensions.sandbox.supervisor.reaper import reap

        reap(supervisor, reaper_end, settings["directory"])
        # The scheduler waits for this process: skip the teardown of the interpreter.
        os._exit(0)
    else:
        os.close(reaper_end)
        from metaflow_extensions.sandbox.supervisor.server import serve

        try:
            serve(line, supervisor_end)
        except OSError as error:
            # Its shims say that it is gone; why, only it can say.
            message = f"[sandbox] The supervisor of this run's sandboxes cannot work: {error}\n"
            os.write(2, message.encode(errors="backslashreplace"))
            os._exit(1)


def read_line(descriptor: int) -> bytes:
    """One line, read byte by byte where needed so that nothing behind it is lost."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 1)
        if not part:
            return b""
        line += part
    return line


if __name__ == "__main__":
    main()
