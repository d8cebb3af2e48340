"""Every kind of transition: branches, foreach, nested foreach, merged joins, a switch and a loop."""

from metaflow import FlowSpec, step


class GraphFlow(FlowSpec):
    @step
    def start(self):
        self.common = {"made": "at the start"}
        self.next(self.left, self.right)

    @step
    def left(self):
        self.only_left = [1, 2.5, None]
        self.differs = "left"
        self.agreed = (1, 2)
        self.next(self.merge)

    @step
    def right(self):
        self.only_right = {"ü", "x"}
        self.differs = "right"
        self.agreed = (1, 2)
        self.next(self.merge)

    @step
    def merge(self, inputs):
        self.differs = inputs.left.differs + "+" + inputs.right.differs
        self.merge_artifacts(inputs, exclude=["only_right"])
        print("merged", self.differs, self.only_left)
        self.next(self.spread)

    @step
    def spread(self):
        self.letters = ["a", "b"]
        self.next(self.outer, foreach="letters")

    @step
    def outer(self):
        self.letter = self.input
        self.numbers = range(self.index + 1)
        self.next(self.inner, foreach="numbers")

    @step
    def inner(self):
        self.cell = f"{self.letter}{self.input}"
        self.place = [(frame[0], frame[1]) for frame in self.foreach_stack()]
        print("cell", self.cell)
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.cells = [one.cell for one in inputs]
        self.merge_artifacts(inputs, include=["letter", "common"])
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.rows = {one.letter: one.cells for one in inputs}
        self.merge_artifacts(inputs, exclude=["letter", "cells"])
        self.next(self.choose)

    @step
    def choose(self):
        self.road = "high" if len(self.rows) == 2 else "low"
        self.next({"high": self.high, "low": self.low}, condition="road")

    @step
    def high(self):
        self.taken = "high"
        self.next(self.roads_meet)

    @step
    def low(self):
        self.taken = "low"
        self.next(self.roads_meet)

    @step
    def roads_meet(self):
        self.turns = []
        self.next(self.loop)

    @step
    def loop(self):
        self.turns = [*self.turns, len(self.turns)]
        self.again = "again" if len(self.turns) < 3 else "enough"
        self.next({"again": self.loop, "enough": self.end}, condition="again")

    @step
    def end(self):
        print("rows", self.rows, "turns", self.turns, "taken", self.taken)


if __name__ == "__main__":
    GraphFlow()
