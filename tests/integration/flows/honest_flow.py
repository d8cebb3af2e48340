"""A flow with every kind of transition that leaves artifacts for Metaflow's scheduler to read."""

from metaflow import FlowSpec, Parameter, catch, parallel, retry, step, unbounded_test_foreach_internal
from metaflow.plugins import InternalTestUnboundedForeachInput


class HonestFlow(FlowSpec):
    limit = Parameter("limit", default=2)

    @step
    def start(self):
        self.letters = ["a", "b"]
        self.next(self.outer, foreach="letters")

    @step
    def outer(self):
        self.numbers = [1, 2]
        self.next(self.inner, foreach="numbers")

    @retry(times=1, minutes_between_retries=0)
    @catch(var="failure")
    @step
    def inner(self):
        self.pair = self.input
        if self.pair == 2:
            raise ValueError("caught")
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.pairs = [one.index for one in inputs]
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.turns = 0
        self.next(self.loop)

    @step
    def loop(self):
        self.turns += 1
        self.more = "yes" if self.turns < self.limit else "no"
        self.next({"yes": self.loop, "no": self.spread}, condition="more")

    @step
    def spread(self):
        self.next(self.node, num_parallel=2)

    @parallel
    @step
    def node(self):
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.next(self.scatter)

    @step
    def scatter(self):
        self.things = InternalTestUnboundedForeachInput([1, 2])
        self.next(self.unbounded, foreach="things")

    @unbounded_test_foreach_internal
    @step
    def unbounded(self):
        self.next(self.bound)

    @step
    def bound(self, inputs):
        self.next(self.fork)

    @step
    def fork(self):
        self.next(self.left, self.right)

    @step
    def left(self):
        self.next(self.end_join)

    @step
    def right(self):
        self.next(self.end_join)

    @step
    def end_join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        self.result = {"floats": [1.5], "words": {"a", "b"}}


if __name__ == "__main__":
    HonestFlow()
