"""The sandbox of a failed step, kept for a while: noted for who asks, and said again until it goes."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

from . import words
from .output import OutputSink
from .run_directories import KEPT

# Seconds. Metaflow's scheduler shows of several lines that come at once the first, and the others when
# something more comes.
PAUSES = (0.5, 5.0)
REMINDER = 60.0  # seconds


class Kept:
    """One of them."""

    def __init__(self, run_directory: Path, sandbox_id: str, seconds: float, sink: OutputSink) -> None:
        self.until = time.time() + seconds
        self._note = run_directory / f"{KEPT}{sandbox_id}"
        self._sandbox_id = sandbox_id
        self._seconds = seconds
        self._sink = sink
        self._gone = threading.Event()

    def start(self) -> None:
        """Note it, and say so on a thread of its own: writing may wait for a reader."""
        self._note.write_text(str(self.until))
        threading.Thread(target=self._say, daemon=True).start()

    def _say(self) -> None:
        self._sink.say(words.kept(self._seconds))
        for number, pause in enumerate(itertools.chain(PAUSES, itertools.repeat(REMINDER))):
            if self._gone.wait(pause):
                return
            left = self.until - time.time()
            self._sink.say(words.how_to_look(self._sandbox_id) if not number else words.still_kept(left))

    def end(self) -> None:
        """It goes."""
        self._gone.set()
        self._note.unlink(missing_ok=True)
