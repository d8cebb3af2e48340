"""Cards: by default, two with names, one refreshed while its step runs, and one that can't be rendered."""

import signal
import threading

from metaflow import FlowSpec, card, current, step
from metaflow.cards import Artifact, Markdown, ProgressBar, Table

WAIT = 120  # seconds until somebody looks at the running step's card


class CardsFlow(FlowSpec):
    @card
    @step
    def start(self):
        self.number = 17
        self.next(self.named)

    @card(type="default", id="first")
    @card(type="blank", id="second")
    @step
    def named(self):
        current.card["first"].append(Markdown("# A heading of the first"))
        current.card["first"].append(Table([["cell one", Artifact(self.number)]], headers=["a", "b"]))
        current.card["second"].append(Markdown("Only in the *second*"))
        self.next(self.running)

    @card(type="blank", refresh_interval=0.1)
    @step
    def running(self):
        self.turns = 0
        looked = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: looked.set())
        bar = ProgressBar(max=1000, label="turns of the running step")
        current.card.append(bar)
        print("ready", flush=True)
        turns = 0
        while not looked.wait(0.1):
            turns += 1
            bar.update(turns)
            current.card.refresh()
            if turns > 10 * WAIT:
                raise RuntimeError("nobody looked")
        self.next(self.end)

    @card(type="no_such_card")
    @step
    def end(self):
        pass


if __name__ == "__main__":
    CardsFlow()
