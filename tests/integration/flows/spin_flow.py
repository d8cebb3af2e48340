"""Sandboxed steps that can be spun alone."""

import os

from metaflow import FlowSpec, Parameter, card, current, environment, sandbox, step


class SpinFlow(FlowSpec):
    factor = Parameter("factor", default=10)

    @sandbox
    @step
    def start(self):
        self.numbers = [1, 2, 3]
        self.next(self.body, foreach="numbers")

    @card(type="blank")
    @environment(vars={"ADDED": "1"})
    @sandbox
    @step
    def body(self):
        self.result = self.input * self.factor + int(os.environ["ADDED"])
        self.inside = os.environ.get("METAFLOW_SANDBOX_GUEST")
        self.pathspec = current.pathspec
        print("spun", self.result)
        self.next(self.join)

    @sandbox
    @step
    def join(self, inputs):
        self.results = [one.result for one in inputs]
        self.inside = os.environ.get("METAFLOW_SANDBOX_GUEST")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SpinFlow()
