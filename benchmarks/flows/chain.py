import os

from metaflow import FlowSpec, sandbox, step

SANDBOXED = int(os.environ.get("CHAIN_SANDBOXED", "0"))


def walled(number):
    return sandbox if number <= SANDBOXED else lambda function: function


class Chain(FlowSpec):
    @walled(1)
    @step
    def start(self):
        self.next(self.second)

    @walled(2)
    @step
    def second(self):
        self.next(self.third)

    @walled(3)
    @step
    def third(self):
        self.next(self.fourth)

    @walled(4)
    @step
    def fourth(self):
        self.next(self.fifth)

    @walled(5)
    @step
    def fifth(self):
        self.next(self.end)

    @walled(6)
    @step
    def end(self):
        pass


if __name__ == "__main__":
    Chain()
