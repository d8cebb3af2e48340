"""A flow that fails in one of its parallel tasks as long as BROKEN is set."""

import os

from metaflow import FlowSpec, current, environment, step


class ResumeFlow(FlowSpec):
    @step
    def start(self):
        self.letters = ["a", "b", "c"]
        self.next(self.body, foreach="letters")

    @environment(vars={"BROKEN": os.environ.get("BROKEN", "")})
    @step
    def body(self):
        print("in the body of", self.input)
        if os.environ["BROKEN"] and self.input == "b":
            raise ValueError("broken")
        self.upper = self.input.upper()
        self.next(self.join)

    @step
    def join(self, inputs):
        self.word = "".join(one.upper for one in inputs)
        self.origin = current.origin_run_id is not None
        self.next(self.end)

    @step
    def end(self):
        print("the word is", self.word)


if __name__ == "__main__":
    ResumeFlow()
