"""Steps whose cards have something to show: processor time, memory, a queue, a refusal, a retry."""

import time
from pathlib import Path

from metaflow import FlowSpec, card, current, retry, sandbox, step


class TimelineFlow(FlowSpec):
    """Six sandboxes where three are allowed at once, and a step that is not in one."""

    @step
    def start(self):
        self.turns = list(range(6))
        self.next(self.work, foreach="turns")

    @card(type="sandbox")
    @retry(times=1, minutes_between_retries=0)
    @sandbox(memory=1024)
    @step
    def work(self):
        held = []
        for turn in range(4 + self.input):
            held.append(bytearray(b"x") * (24 << 20))
            until = time.monotonic() + 0.25
            while time.monotonic() < until:
                turn += 1
            time.sleep(0.15)
        if self.input == 2 and current.retry_count == 0:
            raise RuntimeError("failing once, on purpose")
        self.held = len(held)
        self.next(self.join)

    @sandbox
    @step
    def join(self, inputs):
        self.held = sum(one.held for one in inputs)
        self.next(self.end)

    @card(type="sandbox")
    @sandbox
    @step
    def end(self):
        time.sleep(0.5)
        print("held", self.held, Path.cwd().name != "")


if __name__ == "__main__":
    TimelineFlow()
