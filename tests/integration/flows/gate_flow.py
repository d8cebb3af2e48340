"""A step that saves an artifact only once it is told that the world has changed."""

import os
import time

from metaflow import FlowSpec, Parameter, current, step


class GateFlow(FlowSpec):
    """The body waits for ``seconds``; a signal would not come through the walls."""

    seconds = Parameter("seconds", default=1.0)
    size = Parameter("size", default=1000)

    @step
    def start(self):
        self.next(self.body)

    @step
    def body(self):
        print(f"body runs as attempt {current.retry_count}", flush=True)
        time.sleep(self.seconds)
        self.data = os.urandom(self.size)
        self.next(self.end)

    @step
    def end(self):
        print(f"end has {len(self.data)} bytes", flush=True)


if __name__ == "__main__":
    GateFlow()
