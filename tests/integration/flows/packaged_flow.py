"""A flow with a package of its own, which says what it imports and where it runs."""

import sys
from pathlib import Path

from helpers_of_flow import TOP
from helpers_of_flow.deep.thing import thing
from metaflow import FlowSpec, step


class PackagedFlow(FlowSpec):
    @step
    def start(self):
        self.things = [TOP, thing()]
        self.script = Path(sys.argv[0]).name
        self.doc = __doc__
        self.next(self.end)

    @step
    def end(self):
        from helpers_of_flow.late import LATE

        self.late = LATE


if __name__ == "__main__":
    PackagedFlow()
