from metaflow import FlowSpec, sandbox, step


class LinearMiddle(FlowSpec):
    @step
    def start(self):
        self.number = 1
        self.next(self.middle)

    @sandbox
    @step
    def middle(self):
        self.number += 1
        self.next(self.end)

    @step
    def end(self):
        assert self.number == 2


if __name__ == "__main__":
    LinearMiddle()
