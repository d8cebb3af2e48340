"""A step in direct mode that says something about itself and is killed."""

import os
import signal
import time

from metaflow import FlowSpec, current, sandbox, step
from metaflow.metadata_provider import MetaDatum
from metaflow.system_context import system_context


class DirectKilledFlow(FlowSpec):
    @sandbox
    @step
    def start(self):
        entry = MetaDatum("said-before", "yes", "said-before", [f"attempt_id:{current.retry_count}"])
        system_context.metadata.register_metadata(current.run_id, "start", current.task_id, [entry])
        time.sleep(4)
        os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    DirectKilledFlow()
