"""One artifact (of 1 GiB) that can't be compressed, made in one sandbox and read in another."""

import hashlib
import os

from metaflow import FlowSpec, Parameter, step

BLOCK = 64 << 20  # bytes; far beyond gzip's window, so that its repetition isn't seen


class LargeFlow(FlowSpec):
    blocks = Parameter("blocks", default=16)

    @step
    def start(self):
        self.large = os.urandom(BLOCK) * self.blocks
        self.digest = hashlib.sha1(self.large).hexdigest()
        self.next(self.end)

    @step
    def end(self):
        self.same = hashlib.sha1(self.large).hexdigest() == self.digest
        self.size = len(self.large)


if __name__ == "__main__":
    LargeFlow()
