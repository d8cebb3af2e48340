"""A sandboxed step that leaves a trace wherever it runs."""

import os
from pathlib import Path

from metaflow import FlowSpec, catch, retry, sandbox, step


class ClosedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.plain, self.caught)

    @sandbox
    @step
    def plain(self):
        self.trace()
        self.next(self.join)

    @catch(var="failure")
    @retry(times=2)
    @sandbox
    @step
    def caught(self):
        self.trace()
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass

    def trace(self):
        Path(os.environ.get("TRACE", "trace")).write_text("user code ran")
        print("user code ran")


if __name__ == "__main__":
    ClosedFlow()
