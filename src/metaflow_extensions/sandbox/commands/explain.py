"""``explain``: one page about a task: its sandbox, how long each phase took, what was refused, its end."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..units import duration, mebibytes
from .logs import STREAMS, lines
from .table import say, show_json
from .task_path import NoSuchTask, find, full_path

LAST_LINES = 15
OURS = "sandbox-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("task", metavar="TASK", help="FLOW/RUN/STEP/TASK")
    parser.add_argument("--attempt", type=int, metavar="N", help="default: the last")
    parser.add_argument("--json", action="store_true", help="one JSON object, see docs/commands.md")


def main(options: argparse.Namespace) -> int:
    """Print it."""
    path = full_path(options.task, options)
    attempt = options.attempt
    if attempt is None:
        attempt = int(find(path, None).current_attempt)
    page = explained(find(path, attempt), path, attempt)
    if options.json:
        show_json(page)
    else:
        say(_as_text(page))
    return 0


def explained(task: Any, path: str, attempt: int) -> dict[str, Any]:
    """What an attempt's metadata and logs say. Raises NoSuchTask for one that never had a sandbox."""
    fields = {entry.name: str(entry.value) for entry in task.metadata if entry.name.startswith(OURS)}
    if f"{OURS}backend" not in fields:
        raise NoSuchTask(
            f"attempt {attempt} of {path} has no record of a sandbox: it ran without one, or failed before "
            "its code started. What it printed: the command logs"
        )
    refusals = int(fields.get(f"{OURS}refusals", "0"))
    return {
        "task": path,
        "attempt": attempt,
        "backend": fields[f"{OURS}backend"],
        "id": fields.get(f"{OURS}id"),
        "isolation": fields.get(f"{OURS}isolation"),
        "image": fields.get(f"{OURS}image") or None,
        "network": fields.get(f"{OURS}network"),
        "limits": json.loads(fields.get(f"{OURS}limits", "{}")),
        "timings": json.loads(fields.get(f"{OURS}timings", "{}")),
        "peak_memory": _number(fields.get(f"{OURS}peak-memory-mib")),
        "cpu_seconds": _number(fields.get(f"{OURS}cpu-seconds")),
        "refusals": refusals,
        "refused": json.loads(fields.get(f"{OURS}refused", "[]")),
        "outcome": fields.get(f"{OURS}outcome"),
        "last_output": lines(task, list(STREAMS))[-LAST_LINES:],
    }


def _number(given: str | None) -> float | None:
    return None if given is None else float(given)


def _as_text(page: dict[str, Any]) -> str:
    phases = " · ".join(f"{name} {duration(seconds)}" for name, seconds in page["timings"].items())
    rows = [
        ("Task", f"{page['task']}, attempt {page['attempt']}"),
        ("Sandbox", f"{page['backend']} {page['id']}, isolation {page['isolation']}"),
        ("Image", page["image"] or "none: the launcher's own Python"),
        ("Network", page["network"]),
        ("Limits", _limits(page["limits"])),
        ("Phases", phases or "unknown"),
        ("Peak memory", "unknown" if page["peak_memory"] is None else mebibytes(page["peak_memory"])),
        ("CPU", "unknown" if page["cpu_seconds"] is None else f"{page['cpu_seconds']:.2f} s"),
        ("Refusals", str(page["refusals"])),
        *(("", reason) for reason in page["refused"]),
        ("End", page["outcome"] or "it runs, or was cut off"),
    ]
    width = max(len(name) for name, _ in rows)
    text = [f"{name:{width}}  {value}" for name, value in rows]
    return "\n".join([*text, "", "Last output:", *(f"  {line}" for line in page["last_output"])])


def _limits(limits: dict[str, Any]) -> str:
    shown = [
        f"{name} {mebibytes(value)}" if name in ("memory", "disk") else f"{name} {value:g}"
        for name, value in limits.items()
    ]
    return ", ".join(shown) or "the backend's own"
