"""Three steps that say where they ran."""

import os

from metaflow import FlowSpec, Parameter, current, step


class SmallFlow(FlowSpec):
    number = Parameter("number", default=1)

    @step
    def start(self):
        self.doubled = 2 * self.number
        self.next(self.middle)

    @step
    def middle(self):
        print("out of the middle")
        self.squared = self.doubled**2
        self.tags = sorted(current.tags)
        self.seen_namespace = current.namespace
        self.inside = os.environ.get("METAFLOW_SANDBOX_GUEST")
        self.next(self.end)

    @step
    def end(self):
        self.total = self.doubled + self.squared


if __name__ == "__main__":
    SmallFlow()
