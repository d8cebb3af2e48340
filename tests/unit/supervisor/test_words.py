"""What a task's log says of its end."""

from __future__ import annotations

from metaflow_extensions.sandbox.errors import RelayError, SandboxError, SandboxLost, StartFailed
from metaflow_extensions.sandbox.supervisor import words


def ended(*errors: Exception) -> str:
    """What is said of the last of errors, each raised while the one before was dealt with."""

    def raise_all(first: Exception, *others: Exception) -> None:
        try:
            raise first
        finally:
            if others:
                raise_all(*others)

    try:
        raise_all(*errors)
    except SandboxError as error:
        return words.failure(error)
    return ""


def test_an_error_is_named() -> None:
    """Guards against a class that has to be guessed from its message."""
    assert ended(StartFailed("no room")) == "StartFailed: no room"
    assert ended(ValueError("inner"), StartFailed("no room")) == "StartFailed: no room"


def test_a_lost_sandbox_is_not_hidden() -> None:
    """Guards against a user who looks for the cause in what only followed from it."""
    lost, unread = SandboxLost("it is gone"), RelayError("nothing can be read")
    said = "SandboxLost: it is gone; then RelayError: nothing can be read"
    assert ended(lost, unread) == said
    assert (
        ended(SandboxLost("it is gone"), KeyError("of a library"), RelayError("nothing can be read")) == said
    )
    assert ended(SandboxLost("first"), SandboxLost("second")) == "SandboxLost: second"
