"""A step that leaves a file and fails, and others that end in their own ways."""

import os
import signal
import sys
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, step


class BrokenFlow(FlowSpec):
    """``way`` says how."""

    way = Parameter("way", default="raise")

    @step
    def start(self):
        Path("left.txt").write_text("what the step left\n")
        print("the last words", flush=True)
        if self.way == "raise":
            raise ValueError("broken on purpose")
        if self.way == "exit":
            sys.exit(9)
        if self.way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "wait":
            time.sleep(600)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BrokenFlow()
