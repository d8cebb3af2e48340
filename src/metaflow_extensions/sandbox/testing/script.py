"""What a scripted backend is told to do: in code, in a spec's options, or in a JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import errors
from ..backends.interface import Feature
from ..errors import QuotaExceeded, SandboxError, UnsupportedOption

VARIABLE = "METAFLOW_SANDBOX_SCRIPT"
_FAILURES: Mapping[str, type[SandboxError]] = {
    name: getattr(errors, name)
    for name in ("BackendUnavailable", "UnsupportedOption", "StartFailed", "SandboxLost", "QuotaExceeded")
}


@dataclass(frozen=True)
class Outcome:
    """How a command ends that isn't run: its output, and its exit code after ``seconds``."""

    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True)
class Script:
    """What happens instead of success.

    ``open_failures`` and ``start_failures`` are raised by the first calls, one each; None among them
    lets that call through. ``open_delay`` is in seconds. ``lost_after`` is in seconds after a command's
    start: then its sandbox goes away. With ``outcome`` no command is run and no process made.
    ``events`` is a file that gets one JSON object a line for everything that happened. ``pretend`` names
    features that are declared and not honoured: limits limit nothing, mounts are writable and seen only
    through arguments, values of the environment and ``cwd`` that name them. It belongs to a backend, not
    to a spec's options, because features are read before a spec is made.

    As JSON a feature is its name, an outcome's output is text, and a failure is null or like
    ``{"error": "QuotaExceeded", "message": "…", "retry_after": 1}``.
    """

    open_failures: Sequence[Exception | None] = ()
    start_failures: Sequence[Exception | None] = ()
    open_delay: float = 0.0
    lost_after: float | None = None
    outcome: Outcome | None = None
    events: Path | None = None
    pretend: frozenset[Feature] = frozenset()

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Script:
        """Read a script from JSON's values. Raises UnsupportedOption for a key that it doesn't know."""
        _known("a script", value, cls)
        script = dict(value)
        for key in ("open_failures", "start_failures"):
            script[key] = tuple(_failure(item) for item in value.get(key, ()))
        if value.get("outcome") is not None:
            script["outcome"] = _outcome(value["outcome"])
        if value.get("events") is not None:
            script["events"] = Path(value["events"])
        try:
            script["pretend"] = frozenset(Feature[name] for name in value.get("pretend", ()))
        except KeyError as error:
            raise UnsupportedOption(f"pretend: there is no feature {error}") from error
        return cls(**script)

    @classmethod
    def from_environment(cls) -> Script:
        """Read the JSON file named by METAFLOW_SANDBOX_SCRIPT; without one the script is empty."""
        path = os.environ.get(VARIABLE)
        return cls.parse(json.loads(Path(path).read_text(encoding="utf-8"))) if path else cls()


def _known(what: str, value: Mapping[str, Any], cls: type[Script] | type[Outcome]) -> None:
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise UnsupportedOption(
            f"{what} of the scripted backend has no {', '.join(unknown)}; use {', '.join(known)}"
        )


def _outcome(value: Mapping[str, Any]) -> Outcome:
    _known("an outcome", value, Outcome)
    streams = {key: value[key].encode() for key in ("stdout", "stderr") if key in value}
    return Outcome(**{**value, **streams})


def _failure(value: Mapping[str, Any] | None) -> SandboxError | None:
    if value is None:
        return None
    name, message = str(value.get("error")), str(value.get("message", "scripted failure"))
    if name not in _FAILURES:
        raise UnsupportedOption(
            f"a failure of the scripted backend can't be {name!r}; use {', '.join(_FAILURES)}"
        )
    if name == "QuotaExceeded":
        return QuotaExceeded(message, value.get("retry_after"))
    return _FAILURES[name](message)
