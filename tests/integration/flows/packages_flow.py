"""Steps with packages of their own among steps without; what each finds is an artifact."""

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys

from metaflow import FlowSpec, Parameter, current, sandbox, step


def look():
    """What this interpreter has."""
    return {
        "python": sys.version_info[:2],
        "prefix": sys.prefix,
        "packages": {each.name.lower(): each.version for each in importlib.metadata.distributions()},
        "boto3": importlib.util.find_spec("boto3") is not None,
        "online": online(),
    }


def online():
    """Whether anything can be reached."""
    try:
        socket.create_connection(("192.0.2.1", 80), 0.2).close()
    except OSError as error:
        return type(error).__name__ == "TimeoutError"  # a way out, with nobody at its end
    return True


class PackagesFlow(FlowSpec):
    width = Parameter("width", default=20)

    @step
    def start(self):
        self.at_start = look()
        self.next(self.frame)

    @sandbox(packages={"pandas": "2.2.3", "numpy": "1.26.4"})
    @step
    def frame(self):
        import numpy
        import pandas

        self.seen = look()
        self.total = int(pandas.DataFrame({"x": numpy.arange(5)})["x"].sum())
        self.compiled = os.path.exists(pandas.__cached__)  # noqa: PTH110
        self.next(self.tool)

    @sandbox(packages={"numpy": "2.1.3", "black": "24.10.0"})
    @step
    def tool(self):
        self.seen = look()
        self.version = subprocess.run(["black", "--version"], capture_output=True, text=True).stdout
        self.where = shutil.which("black")
        self.items = list(range(self.width))
        self.next(self.each, foreach="items")

    @sandbox(packages={"numpy": "2.1.3", "black": "24.10.0"})
    @step
    def each(self):
        import numpy

        self.square = int(numpy.square(self.input))
        self.next(self.join)

    @step
    def join(self, inputs):
        self.squares = sorted(each.square for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        if os.environ.get("FAIL_AT_END"):
            raise ValueError("as asked")
        self.origin = current.origin_run_id


if __name__ == "__main__":
    PackagesFlow()
