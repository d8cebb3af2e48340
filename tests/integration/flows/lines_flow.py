"""Steps whose every line of output, and every byte of whose artifacts, are told apart."""

import hashlib
import os
import sys
import time

from metaflow import FlowSpec, Parameter, sandbox, step

SIZE = 2_000_000


class LinesFlow(FlowSpec):
    """A foreach of ``width`` in sandboxes; each body prints ``lines`` lines, which takes ``seconds``."""

    width = Parameter("width", default=3)
    lines = Parameter("lines", default=200)
    seconds = Parameter("seconds", default=1.0)

    @step
    def start(self):
        self.items = [os.urandom(SIZE) for _ in range(self.width)]
        self.next(self.body, foreach="items")

    @sandbox
    @step
    def body(self):
        print(f"body {self.index} begins", flush=True)
        for number in range(self.lines):
            print(f"line {number} of {self.index}", file=(sys.stdout, sys.stderr)[number % 2], flush=True)
            time.sleep(self.seconds / self.lines)
        self.mine = self.input[::-1]
        self.sum = hashlib.sha256(self.input).hexdigest()
        self.next(self.join)

    @step
    def join(self, inputs):
        for each in inputs:
            assert hashlib.sha256(each.mine[::-1]).hexdigest() == each.sum
        self.sums = {each.sum for each in inputs}
        self.merge_artifacts(inputs, include=["items"])
        assert self.sums == {hashlib.sha256(item).hexdigest() for item in self.items}
        self.next(self.end)

    @step
    def end(self):
        print("all is there", flush=True)


if __name__ == "__main__":
    LinesFlow()
