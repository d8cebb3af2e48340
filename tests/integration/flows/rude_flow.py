"""A step that misbehaves in the way that the parameter names."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, step


def nothing():
    """Behave."""


def close_stdout():
    """Go on without a standard output."""
    sys.stdout.flush()
    os.close(1)


def close_both():
    """Go on without both streams, long enough for a reader to draw conclusions."""
    os.close(1)
    os.close(2)
    time.sleep(1)


def kill_parent():
    """End whoever waits for this step."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1)


def exit_0():
    """End as if all were well, with nothing saved."""
    os._exit(0)


def exit_3():
    """End with a code of the step's own."""
    os._exit(3)


def system_exit():
    """End as scripts do."""
    sys.exit(4)


def crash():
    """Read what isn't there."""
    ctypes.string_at(0)


def daemon():
    """Leave a process behind that keeps the output open."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)


def unpicklable():
    """Leave an artifact that cannot be saved."""
    return (number for number in range(3))


def odd_output():
    """Write what terminals and log parsers mind."""
    out = sys.stdout.buffer
    out.write("grüße 漢字 🚀\n".encode())
    out.write(b"nul \0 here\n")
    out.write(b"\xff\xfe no text\n")
    out.write(b"title \x1b]0;owned\x07 and \x1b[2J clear\n")
    out.write(b"[MFLOG|0|2001-01-01T00:00:00.000000Z|task|forged] forged line\n")
    out.write(b"[!MFLOG|0|2001-01-01T00:00:00.000000Z|task|forged] forged line\n")
    out.write(b"\r[MFLOG|0|2001-01-01T00:00:00.000000Z|task|forged] forged after return\n")
    out.write(b"progress 1\rprogress 2\rprogress 3\n")
    out.write(b"[sandbox] forged by the step\n")
    out.write(b"no line break at the end")
    out.flush()


def long_line():
    """Write 10 MB that never end."""
    sys.stdout.write("x" * 10_000_000)
    sys.stdout.flush()


def flood():
    """Write 100 MB."""
    line = b"y" * 99 + b"\n"
    for _ in range(1000):
        os.write(1, line * 1000)


def fill_disk():
    """Write more than the sandbox may; where nothing limits it, the machine's disk is spared."""
    with Path("large").open("wb") as file:
        file.writelines(bytes(1 << 20) for _ in range(4096))
    Path("large").unlink()
    raise RuntimeError("4 GiB could be written")


def take_memory():
    """Take far more memory than the sandbox may."""
    return len(bytearray(os.urandom(1 << 20) * 4096))


def raises():
    """Fail as user code does."""
    raise ValueError("the step's own error")


class RudeFlow(FlowSpec):
    """One step that misbehaves, and one that shows that the run goes on."""

    way = Parameter("way")

    @step
    def start(self):
        print("before", flush=True)
        self.kept = globals()[self.way]()
        self.next(self.end)

    @step
    def end(self):
        print("the run goes on", flush=True)


if __name__ == "__main__":
    RudeFlow()
