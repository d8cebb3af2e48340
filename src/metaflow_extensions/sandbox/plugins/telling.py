"""What a run tells besides its tasks' own output: METAFLOW_SANDBOX_LOG, _EVENTS, _DEBUG, and spans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metaflow import tracing

from ..errors import UnsupportedOption
from .settings import number, setting

QUIET = "quiet"
LOGS = ("phases", QUIET)
DEBUG_DIRECTORY = Path(".metaflow", "sandbox-debug")  # for METAFLOW_SANDBOX_DEBUG=1
OFF = ("", "0")


@dataclass(frozen=True)
class Telling:
    """Fields of the supervisor's settings of the same names."""

    quiet: bool
    events: str
    debug: str
    keep_for: float
    trace: dict[str, str]


def telling() -> Telling:
    """What is set. Raises UnsupportedOption for what can't be meant, or not be written."""
    log = setting("LOG")
    if log not in LOGS:
        raise UnsupportedOption(f"METAFLOW_SANDBOX_LOG is one of {', '.join(LOGS)}; it is {log!r}")
    return Telling(
        quiet=log == QUIET,
        events=_events(str(setting("EVENTS") or "")),
        debug=_debug(str(setting("DEBUG") or "")),
        keep_for=float(number("KEEP_SECONDS")),
        # Empty unless Metaflow's tracing is on, and OpenTelemetry installed.
        trace=dict(tracing.inject_tracing_vars({})),
    )


def _events(given: str) -> str:
    if not given:
        return ""
    path = Path(given).absolute()
    try:
        path.open("a").close()
    except OSError as error:
        raise UnsupportedOption(
            f"METAFLOW_SANDBOX_EVENTS={given!r} names a file to write to: {error}"
        ) from error
    return str(path)


def _debug(given: str) -> str:
    if given in OFF:
        return ""
    path = (DEBUG_DIRECTORY if given == "1" else Path(given)).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnsupportedOption(
            f"METAFLOW_SANDBOX_DEBUG={given!r} is 1 or names a directory to write to: {error}"
        ) from error
    return str(path)
