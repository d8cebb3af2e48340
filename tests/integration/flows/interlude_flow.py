"""Two sandboxed steps with a plain one between them, which waits to be let go."""

import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, sandbox, step


class InterludeFlow(FlowSpec):
    """The plain step waits until ``gate`` exists."""

    gate = Parameter("gate")

    @sandbox
    @step
    def start(self):
        print("before", flush=True)
        self.next(self.interlude)

    @step
    def interlude(self):
        print("interlude", flush=True)
        while not Path(self.gate).exists():
            time.sleep(0.01)
        self.next(self.end)

    @sandbox
    @step
    def end(self):
        print("after", flush=True)


if __name__ == "__main__":
    InterludeFlow()
