"""Steps whose first task starts the others: @parallel, and Metaflow's example of an unbounded foreach."""

import os
from pathlib import Path

from metaflow import FlowSpec, current, parallel, sandbox, step, unbounded_test_foreach_internal
from metaflow.plugins import InternalTestUnboundedForeachInput


class SpreadFlow(FlowSpec):
    @sandbox
    @step
    def start(self):
        self.inside = os.environ.get("METAFLOW_SANDBOX_GUEST")
        self.next(self.node, num_parallel=3)

    @parallel
    @step
    def node(self):
        self.trace("node")
        self.place = (current.parallel.node_index, current.parallel.num_nodes)
        self.next(self.gather)

    @sandbox
    @step
    def gather(self, inputs):
        self.places = sorted(one.place for one in inputs)
        self.next(self.scatter)

    @sandbox
    @step
    def scatter(self):
        self.things = InternalTestUnboundedForeachInput([1, 2])
        self.next(self.unbounded, foreach="things")

    @unbounded_test_foreach_internal
    @step
    def unbounded(self):
        self.trace("unbounded")
        self.double = 2 * self.input
        self.next(self.bound)

    @sandbox
    @step
    def bound(self, inputs):
        self.places = inputs[0].places
        self.doubles = sorted(one.double for one in inputs)
        self.next(self.end)

    @step
    def end(self):
        pass

    @staticmethod
    def trace(name):
        Path(f"ran-{name}").touch()


if __name__ == "__main__":
    SpreadFlow()
