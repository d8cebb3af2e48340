from metaflow import FlowSpec, step


class Fan(FlowSpec):
    @step
    def start(self):
        self.numbers = list(range(50))
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        self.square = self.input**2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(each.square for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        assert self.total == 40425


if __name__ == "__main__":
    Fan()
