"""A step that reads what is mounted and uploaded, and tries to write to it."""

import os

from metaflow import FlowSpec, sandbox, step


class MountsFlow(FlowSpec):
    @sandbox
    @step
    def start(self):
        self.read = {}
        self.written = {}
        for place in filter(None, os.environ["READ"].split(",")):
            with open(place) as file:  # noqa: PTH123
                self.read[place] = file.read()
        self.runs = {place: os.access(place, os.X_OK) for place in self.read}
        for place in filter(None, os.environ["WRITE"].split(",")):
            try:
                with open(place, "w") as file:  # noqa: PTH123
                    file.write("from inside")
                self.written[place] = True
            except OSError:
                self.written[place] = False
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    MountsFlow()
