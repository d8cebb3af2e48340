"""One step on the scripted backend, which counts how often it ran."""

import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, current, sandbox, step


class ScriptedLifeFlow(FlowSpec):
    """On its first attempt the body sleeps for ``seconds``."""

    seconds = Parameter("seconds", default=0.0)
    count = Parameter("count")

    @step
    def start(self):
        self.next(self.body)

    @sandbox(backend="metaflow_extensions.sandbox.testing.scripted:ScriptedBackend")
    @step
    def body(self):
        with Path(self.count).open("a") as file:
            file.write("ran\n")
        print(f"body runs as attempt {current.retry_count}", flush=True)
        if current.retry_count == 0:
            time.sleep(self.seconds)
        self.next(self.end)

    @step
    def end(self):
        print("done", flush=True)


if __name__ == "__main__":
    ScriptedLifeFlow()
