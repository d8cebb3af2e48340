"""Steps that run until they are killed, and count how often they ran."""

import subprocess
import sys
import time

from metaflow import FlowSpec, Parameter, current, step

DAEMON = """
import subprocess, sys, time
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]])
time.sleep(600)
"""


def start_daemon(marker):
    """Start a process in a session of its own, with a child, that keeps this one's output open."""
    subprocess.Popen([sys.executable, "-c", DAEMON, marker, DAEMON], start_new_session=True)


class LifeFlow(FlowSpec):
    """A foreach of ``width``; on their first attempt the bodies sleep for ``seconds``."""

    width = Parameter("width", default=1)
    seconds = Parameter("seconds", default=0.0)
    # An argument for the children of a body, to find them by.
    marker = Parameter("marker", default="")

    @step
    def start(self):
        self.items = list(range(self.width))
        self.next(self.body, foreach="items")

    @step
    def body(self):
        if self.marker:
            start_daemon(self.marker)
        # Loaded first: a run that ends here finds the body asleep, not in the middle of a read.
        seconds = self.seconds
        print(f"body {self.input} runs as attempt {current.retry_count}", flush=True)
        if current.retry_count == 0:
            time.sleep(seconds)
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
