"""Steps with conda packages of two versions, with PyPI packages, and plain ones."""

import os
import subprocess
import sys

from metaflow import FlowSpec, conda, current, pypi, sandbox, step


def look():
    """Where this interpreter is."""
    return {"prefix": sys.prefix, "inside": os.environ.get("METAFLOW_SANDBOX_GUEST")}


class CondaFlow(FlowSpec):
    @conda(disabled=True)
    @step
    def start(self):
        self.at_start = look()
        self.next(self.one)

    @sandbox
    @conda(packages={"demo": "1.0"})
    @step
    def one(self):
        import demo

        self.version, self.seen = demo.VERSION, look()
        self.next(self.two)

    @sandbox
    @conda(packages={"demo": "2.0"})
    @step
    def two(self):
        import demo

        self.version, self.seen = demo.VERSION, look()
        self.items = list(range(20))
        self.next(self.each, foreach="items")

    @sandbox
    @conda(packages={"demo": "2.0"})
    @step
    def each(self):
        import demo

        self.version = demo.VERSION
        self.next(self.join)

    @sandbox
    @pypi(packages={"numpy": "1.26.4", "pygments": "2.18.0"})
    @step
    def join(self, inputs):
        import numpy

        self.versions = sorted({each.version for each in inputs})
        self.total = int(numpy.arange(5).sum())
        self.command = subprocess.run(["pygmentize", "-V"], capture_output=True, text=True).stdout
        self.seen = look()
        self.next(self.end)

    @conda(disabled=True)
    @step
    def end(self):
        if os.environ.get("FAIL_AT_END"):
            raise ValueError("as asked")
        self.origin = current.origin_run_id


if __name__ == "__main__":
    CondaFlow()
