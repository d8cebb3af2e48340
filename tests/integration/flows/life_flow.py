"""Steps that run until they are killed, and count how often they ran."""

import os
import subprocess
import sys
import time

from metaflow import FlowSpec, Parameter, current, step


class LifeFlow(FlowSpec):
    """A foreach of ``width``; on their first attempt the bodies sleep for ``seconds``."""

    width = Parameter("width", default=1)
    seconds = Parameter("seconds", default=0.0)
    # Where executions are counted, when the backend has no walls.
    count = Parameter("count", default="")
    # An argument for the children of a body, to find them by.
    marker = Parameter("marker", default="")

    @step
    def start(self):
        self.items = list(range(self.width))
        self.next(self.body, foreach="items")

    @step
    def body(self):
        if self.count:
            with open(self.count, "a") as file:
                file.write(f"{self.input}\n")
        if self.marker:
            # In a session of its own, as a daemon, and with a child of its own.
            sleep = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]); time.sleep(600)"
            subprocess.Popen([sys.executable, "-c", sleep, self.marker], start_new_session=True)
        print(f"body {self.input} runs as attempt {current.retry_count}", flush=True)
        if current.retry_count == 0:
            time.sleep(self.seconds)
        self.result = self.input * 10
        self.attempt = current.retry_count
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [each.result for each in inputs]
        self.next(self.end)

    @step
    def end(self):
        print("results", sorted(self.results), flush=True)


if __name__ == "__main__":
    LifeFlow()
