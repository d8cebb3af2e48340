"""A flow that goes out to two clouds: a foreach in sandboxes of E2B, its join in one of Daytona."""

import os

from metaflow import FlowSpec, daytona, e2b, step


class CloudDemoFlow(FlowSpec):
    """Squares numbers in one cloud and adds them up in the other; the first and the last step run here."""

    @step
    def start(self):
        """Name the numbers to square."""
        self.numbers = list(range(6))
        self.next(self.square, foreach="numbers")

    @e2b
    @step
    def square(self):
        """Square one number, in a sandbox of its own: nothing was installed there, no bucket is needed."""
        self.result = self.input**2
        self.keys_inside = [name for name in os.environ if name.endswith("_API_KEY")]
        self.next(self.add)

    @daytona
    @step
    def add(self, inputs):
        """Add up what came back from the one cloud, in the other."""
        self.total = sum(branch.result for branch in inputs)
        self.keys_inside = [name for branch in inputs for name in branch.keys_inside]
        self.next(self.end)

    @step
    def end(self):
        """Say what came out."""
        print(f"The squares add up to {self.total}.")


if __name__ == "__main__":
    CloudDemoFlow()
