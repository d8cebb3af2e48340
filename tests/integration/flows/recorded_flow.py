"""What a metadata provider has to tell apart: attempts, nested foreaches, a caught failure, a card."""

from metaflow import FlowSpec, card, catch, current, retry, step


class RecordedFlow(FlowSpec):
    @card(type="blank")
    @step
    def start(self):
        self.letters = ["a", "b"]
        self.next(self.outer, foreach="letters")

    @step
    def outer(self):
        self.letter = self.input
        self.numbers = [1, 2]
        self.next(self.inner, foreach="numbers")

    @retry(times=1, minutes_between_retries=0)
    @step
    def inner(self):
        self.cell = f"{self.letter}{self.input}"
        self.tried = current.retry_count
        print("cell", self.cell, "attempt", self.tried)
        if self.cell == "b2" and self.tried == 0:
            self.only_at_first = True
            raise ValueError("not the first time")
        self.next(self.inner_join)

    @step
    def inner_join(self, inputs):
        self.cells = [(one.cell, one.tried) for one in inputs]
        self.next(self.outer_join)

    @step
    def outer_join(self, inputs):
        self.rows = [one.cells for one in inputs]
        self.next(self.risky)

    @catch(var="problem")
    @step
    def risky(self):
        self.never = [][1]
        self.next(self.end)

    @step
    def end(self):
        print("rows", self.rows)


if __name__ == "__main__":
    RecordedFlow()
