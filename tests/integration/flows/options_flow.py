"""Only the middle is sandboxed, with options, in the code."""

import os
import sys
from pathlib import Path

from metaflow import FlowSpec, bubblewrap, resources, sandbox, step


def surroundings():
    """What tells inside from outside."""
    return {
        "guest": os.environ.get("METAFLOW_SANDBOX_GUEST"),
        "given": os.environ.get("GIVEN"),
        "launchers": os.environ.get("LAUNCHERS_OWN"),
        "beside": Path(os.environ.get("BESIDE", "/nowhere")).exists(),
        "requests": "requests" in sys.modules,
        "boto3": "boto3" in sys.modules,
    }


class OptionsFlow(FlowSpec):
    @step
    def start(self):
        self.at_start = surroundings()
        self.next(self.middle, self.other)

    @sandbox(env={"GIVEN": "a value, with a comma", "BESIDE": os.environ.get("BESIDE", "")}, disk=300)
    @resources(memory=2000, cpu=3, disk=200)
    @step
    def middle(self):
        self.in_middle = surroundings()
        self.limits = {
            decorator.name: {name: decorator.attributes[name] for name in ("cpu", "memory", "disk")}
            for decorator in type(self).middle.decorators
        }
        file_system = os.statvfs(".")
        self.disk = file_system.f_blocks * file_system.f_frsize >> 20
        self.next(self.join)

    @bubblewrap(env={"GIVEN": 7})
    @step
    def other(self):
        self.in_other = surroundings()
        self.next(self.join)

    @step
    def join(self, inputs):
        self.merge_artifacts(inputs)
        self.next(self.end)

    @step
    def end(self):
        self.at_end = surroundings()


if __name__ == "__main__":
    OptionsFlow()
