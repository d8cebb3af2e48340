"""A step whose decorators are those that the test says; none of its code is ever to run."""

import json
import os

from metaflow import FlowSpec, bubblewrap, sandbox, step

DECORATORS = {"sandbox": sandbox, "bubblewrap": bubblewrap}


def decorated(function):
    """The step behind the decorators in DECORATED: [[name, attributes], …]."""
    for name, attributes in json.loads(os.environ.get("DECORATED", "[]")):
        function = DECORATORS[name](**attributes)(function)
    return function


class RefusedFlow(FlowSpec):
    """Refused before anything starts."""

    @decorated
    @step
    def start(self):
        print("USER CODE", flush=True)
        self.next(self.end)

    @step
    def end(self):
        print("USER CODE", flush=True)


if __name__ == "__main__":
    RefusedFlow()
