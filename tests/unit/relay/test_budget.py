"""What one task may send in all."""

from __future__ import annotations

import threading

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.budget import PIECE, Budget
from metaflow_extensions.sandbox.relay.services import Limits


def test_bytes() -> None:
    """Guards against a limit that is off, or that is forgotten once it was reached."""
    budget = Budget(Limits(task=100))
    budget.take(60)
    budget.take(40)
    for _ in range(3):
        with pytest.raises(RelayError, match="METAFLOW_SANDBOX_MAX_UPLOAD"):
            budget.take(1)


def test_empty_files_are_not_free() -> None:
    """Guards against filling the launcher's file system with empty files."""
    budget = Budget(Limits(task=10 * PIECE))
    budget.take_pieces(10)
    with pytest.raises(RelayError):
        budget.take_pieces(1)
    budget = Budget(Limits(pieces=10))
    budget.take_pieces(10)
    with pytest.raises(RelayError, match="10 objects"):
        budget.take_pieces(1)


def test_a_file_written_again_counts_once() -> None:
    """Guards against a card that is refreshed for days running out of what it may write."""
    budget = Budget(Limits(pieces=2))
    for _ in range(100):
        budget.take_path("Flow/runs/1/steps/a/tasks/1/cards/x.html")
    budget.take_path("b")
    for _ in range(3):
        with pytest.raises(RelayError):
            budget.take_path("c")


def test_many_connections_at_once() -> None:
    """Guards against a count that threads lose."""
    budget = Budget(Limits(task=8000))
    refused = []

    def send() -> None:
        for _ in range(2000):
            try:
                budget.take(1)
            except RelayError:
                refused.append(1)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 8 * 2000 - 8000
