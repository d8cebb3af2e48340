"""Questions to several backends at once."""

from __future__ import annotations

import threading

from metaflow_extensions.sandbox.commands.asking import ask, is_anybody_silent
from metaflow_extensions.sandbox.errors import BackendUnavailable, QuotaExceeded, UnknownBackend

WAIT = 30.0  # seconds


def answer(name: str) -> str:
    """What each of the tests' backends says."""
    if name == "absent":
        raise BackendUnavailable("no SDK")
    if name == "unknown":
        raise UnknownBackend("no such")
    if name == "refuses":
        raise QuotaExceeded("no more")
    if name == "broken":
        raise ZeroDivisionError("a bug")
    return f"{name}!"


def test_every_answer_is_its_own() -> None:
    """Guards against one backend's failure told of another, or of all."""
    names = ["b", "absent", "refuses", "broken", "a", "b", "unknown"]
    answers = ask(names, answer, WAIT)
    assert [found.backend for found in answers] == ["b", "absent", "refuses", "broken", "a", "unknown"]
    assert [found.value for found in answers] == ["b!", None, None, None, "a!", None]
    assert [found.absent for found in answers] == [False, True, False, False, False, True]
    assert [found.problem for found in answers] == [
        None,
        "no SDK",
        "QuotaExceeded: no more",
        "it failed with ZeroDivisionError: a bug",
        None,
        "no such",
    ]
    assert ask([], answer, WAIT) == []


def test_the_silent_are_not_waited_for() -> None:
    """Guards against a table that waits for the slowest of all clouds."""
    answered = threading.Event()

    def hang(name: str) -> str:
        if name == "silent":
            answered.wait(WAIT)
        return name

    found = ask(["silent", "a"], hang, 0.2)
    assert found[1].value == "a"
    assert "did not answer within 0.2 s: --deadline" in str(found[0].problem)
    assert is_anybody_silent()
    answered.set()
