"""A step that runs until it is sent SIGUSR1."""

import signal
import threading

from metaflow import FlowSpec, step

WAIT = 120  # seconds


class WaitingFlow(FlowSpec):
    @step
    def start(self):
        told = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: told.set())
        print("ready", flush=True)
        if not told.wait(WAIT):
            raise RuntimeError("nobody came")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    WaitingFlow()
