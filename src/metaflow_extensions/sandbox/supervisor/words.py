"""What a task's log says of its end, and what mends it."""

from __future__ import annotations

from ..errors import SandboxError, SandboxLost
from ..units import duration

UNFINISHED = (
    "The step's process ended without saving its results (os._exit, or its parent was killed): "
    "the task has failed."
)
HOW_TO_KEEP = (
    'To look into what a failed step left: @sandbox(keep="on-failure"), or METAFLOW_SANDBOX_KEEP=on-failure, '
    "keeps its sandbox for a shell."
)


def kept(seconds: float) -> str:
    """A step has failed, and its sandbox stays for so long."""
    return f"The step has failed. Its sandbox is kept for {duration(seconds)}."


def how_to_look(sandbox_id: str) -> str:
    """What can be done with it."""
    return (
        f"'metaflow-sandbox shell {sandbox_id}' opens a shell in it, 'metaflow-sandbox kill {sandbox_id}' "
        "or Ctrl-C ends it."
    )


def still_kept(seconds: float) -> str:
    """It stays for so long from now."""
    return f"The sandbox of the failed step is kept for another {duration(seconds)}."


def timed_out(limit: float | None) -> str:
    """The step took longer than so many seconds."""
    return f"CommandTimeout: the step was ended after its limit of {limit:g} s"


def no_python(interpreter: str) -> str:
    """The guest was never started."""
    return (
        f"The sandbox's Python, {interpreter}, cannot be started: "
        "executable= names another one, image= another image."
    )


def killed(memory: int | None) -> str:
    """Something has killed the step, given its limit in MiB."""
    if memory is not None:
        return (
            f"The step was killed, most likely for using more than its {memory} MiB of memory: "
            "memory= sets the limit."
        )
    return "The step was killed: by something in it, or because this machine ran out of memory."


def trying_again(error: Exception, pause: float, number: int, tries: int) -> str:
    """A try has failed, and another comes in ``pause`` seconds."""
    return (
        f"{type(error).__name__}: {error}\n"
        f"No user code has run: trying again in {pause:.1f} s ({number} of {tries})."
    )


def failure(error: SandboxError) -> str:
    """An error, behind the loss of the sandbox that it followed."""
    before = error.__context__
    while before and not isinstance(before, SandboxLost):
        before = before.__context__
    found = [before, error] if before and not isinstance(error, SandboxLost) else [error]
    return "; then ".join(f"{type(each).__name__}: {each}" for each in found)


def broken_backend(name: str, error: Exception) -> str:
    """A backend raised what is not in the errors' tree."""
    if isinstance(error, OSError):
        return f"the sandbox could not be made or read: {error}"
    return (
        f"The backend {name} failed with {type(error).__name__}: {error}. "
        "That is no failure that it should show: report it to the backend's authors."
    )
