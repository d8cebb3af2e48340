"""Why a step ended as no step should, in words for its log."""

from __future__ import annotations

from ..backends.interface import SandboxSpec

UNFINISHED = (
    "The step's process ended without saving its results (os._exit, or its parent was killed): "
    "the task has failed."
)


def why_killed(spec: SandboxSpec) -> str:
    """The likely cause of a SIGKILL that nobody asked for."""
    if spec.memory is not None:
        return (
            f"The step was killed, most likely for using more than its {spec.memory} MiB of memory: "
            "memory= sets the limit."
        )
    return "The step was killed: by something in it, or because this machine ran out of memory."
