"""``doctor``: can sandboxes be made here, by which backend, and what mends what is missing."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..backends import owner, registry
from ..backends.interface import Backend, Command, Isolation, SandboxSpec
from ..errors import BackendUnavailable, StartFailed
from ..units import duration
from .asking import ask
from .table import say, show, show_json

DEADLINE = 30.0  # seconds
TRIAL_DEADLINE = 300.0  # seconds: an image may have to be pulled
TRIAL = ("sleep", "1")
TRIAL_LIFETIME = 600.0  # seconds
COLUMNS = ("", "NAME", "WHAT WAS FOUND")
GOOD, BAD = "ok", "no"


class Context(Protocol):
    """What is known behind a flow's file: its name, and what it can be asked about its providers."""

    name: str

    def checks(self) -> Mapping[str, Callable[[], str]]:
        """By name, what raises unless a provider answers, and otherwise says what it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("names", nargs="*", metavar="BACKEND", help="only these; default: all")
    parser.add_argument(
        "--try",
        dest="trial",
        action="store_true",
        help=f"run '{' '.join(TRIAL)}' in a sandbox of each that can run here",
    )
    parser.add_argument(
        "--image",
        default=os.environ.get("METAFLOW_SANDBOX_IMAGE"),
        help="for --try, where the backend takes one; default: $METAFLOW_SANDBOX_IMAGE, or the backend's own",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, see docs/commands.md")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="for all answers together")


def main(options: argparse.Namespace) -> int:
    """Look. Exit code 0 when the backends named, else the default one, and the flow's providers are fine."""
    default, without_default = _default()
    names = options.names or registry.names()
    deadline = options.deadline or (TRIAL_DEADLINE if options.trial else DEADLINE)
    context: Context | None = getattr(options, "context", None)
    checks = dict(context.checks()) if context else {}

    def answered(name: str) -> dict[str, Any]:
        return examined(name, options) if name in names else {"found": checks[name]()}

    backends: list[dict[str, Any]] = []
    providers: list[dict[str, Any]] = []
    for answer in ask([*names, *checks], answered, deadline):
        entry = {"name": answer.backend, "ok": answer.problem is None, "problem": answer.problem}
        entry.update(answer.value or {})
        (backends if answer.backend in names else providers).append(entry)
    needed = options.names or ([default] if default in names else [])
    fine = all(entry["ok"] for entry in backends if entry["name"] in needed)
    fine = fine and bool(needed) and all(entry["ok"] for entry in providers)
    if options.json:
        show_json({"ok": fine, "default": default, "backends": backends, "providers": providers})
        return 0 if fine else 1
    show(COLUMNS, [_row(entry) for entry in (*backends, *providers)])
    say(f"Without a choice of yours steps run on {default}." if default else without_default)
    return 0 if fine else 1


def examined(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a backend that can run here is. Raises SandboxError when it can't."""
    backend = registry.load(name)
    backend.check()
    about: dict[str, Any] = {"isolation": Isolation(backend.isolation).label}
    return {**about, "trial": tried(backend, options.image)} if options.trial else about


def tried(backend: Backend, image: str | None) -> dict[str, float]:
    """Seconds of each phase of a real sandbox. Raises SandboxError."""
    labels = {**owner.labels(), "purpose": "doctor"}
    started = time.monotonic()
    sandbox = backend.open(SandboxSpec(labels=labels, image=image, lifetime=TRIAL_LIFETIME))
    opened = time.monotonic()
    try:
        process = sandbox.start(Command(TRIAL))
        said = b"".join(chunk.data for chunk in process.output()).decode(errors="replace").strip()
        code = process.wait()
        ran = time.monotonic()
    finally:
        sandbox.close()
    if code:
        raise StartFailed(
            f"'{' '.join(TRIAL)}' ended with {code} in its sandbox: {said or 'it said nothing'}"
        )
    return {"open": opened - started, "run": ran - opened, "close": time.monotonic() - ran}


def _default() -> tuple[str | None, str]:
    chosen = os.environ.get(registry.CHOICE)
    if chosen:
        return chosen, ""
    try:
        return registry.default_name(), ""
    except BackendUnavailable as error:
        return None, str(error)


def _row(entry: Mapping[str, Any]) -> list[str]:
    if not entry["ok"]:
        return [BAD, entry["name"], entry["problem"]]
    if "found" in entry:
        return [GOOD, entry["name"], entry["found"]]
    found = f"isolation {entry['isolation']}"
    if "trial" in entry:
        phases = entry["trial"]
        found += (
            f" · opened in {duration(phases['open'])} · '{' '.join(TRIAL)}' took {duration(phases['run'])} "
            f"· closed in {duration(phases['close'])}"
        )
    return [GOOD, entry["name"], found]
