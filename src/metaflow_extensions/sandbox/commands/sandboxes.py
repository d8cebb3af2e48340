"""Which sandboxes there are: asked of every backend, chosen by flow, run, step, task and user."""

from __future__ import annotations

import argparse
import contextlib
import functools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..backends import owner, registry
from ..backends.interface import SandboxInfo
from ..backends.owner import State
from ..errors import BackendUnavailable, UnknownBackend
from ..supervisor import run_directories
from ..supervisor.reaper import BACKENDS, LABEL
from .asking import Answer, ask

DEADLINE = 10.0  # seconds
AT_ONCE = 16  # sandboxes that are ended side by side
FILTERS = ("flow", "run", "step", "task", "user")
ANY_FLOW = "all"
KEPT_STATE = "kept"


@dataclass(frozen=True)
class Found:
    """One sandbox; ``created`` is in seconds since the epoch."""

    id: str
    backend: str
    labels: Mapping[str, str]
    created: float
    state: State
    kept_until: float | None = None

    @property
    def task(self) -> str:
        """Where it belongs: Flow/run/step/task, as far as it is known."""
        return "/".join(self.labels[name] for name in FILTERS[:4] if self.labels.get(name))

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return max(0.0, time.time() - self.created)

    def described(self) -> dict[str, Any]:
        """As one object of --json."""
        its = {name: self.labels.get(name) for name in (*FILTERS, "attempt", "host", "supervisor")}
        about = {"id": self.id, "backend": self.backend, "state": self.shown, "created": self.created}
        return {**about, "kept_until": self.kept_until, **its}

    @property
    def shown(self) -> str:
        """Its state in one word."""
        return self.state.value if self.kept_until is None else KEPT_STATE


@dataclass(frozen=True)
class Survey:
    """What was found, which backends gave no answer, and which are installed and can't be used here."""

    found: list[Found]
    unanswered: list[Answer[Any]]
    unavailable: list[Answer[Any]]

    def not_asked(self) -> str:
        """A line about the last of these, empty where there are none."""
        names = ", ".join(answer.backend for answer in self.unavailable)
        return f"Not asked: {names}; 'doctor' says why." if names else ""

    def described(self) -> dict[str, Any]:
        """As --json shows it."""
        return {
            "sandboxes": [sandbox.described() for sandbox in self.found],
            "unanswered": reasons(self.unanswered),
            "unavailable": reasons(self.unavailable),
        }


def reasons(answers: list[Answer[Any]]) -> list[dict[str, str | None]]:
    """Of each backend that did not do what it was asked, why, as --json shows it."""
    return [{"backend": answer.backend, "reason": answer.problem} for answer in answers]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What chooses sandboxes."""
    parser.add_argument(
        "--flow", metavar="NAME", help=f"of this flow; {ANY_FLOW}: of any, also behind a flow's file"
    )
    parser.add_argument("--run", metavar="ID", help="of this run: 12, or Flow/12")
    parser.add_argument("--step", metavar="NAME", help="of this step")
    parser.add_argument("--task", metavar="ID", help="of this task: 3, or Flow/12/step/3")
    parser.add_argument("--user", metavar="NAME", help="of this user, as Metaflow names them")
    add_backends(parser)


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Which backends are asked."""
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="only of this one; several may be named; default: all that are installed",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=DEADLINE,
        metavar="SECONDS",
        help=f"for a backend's answer; default {DEADLINE:g}",
    )


def wanted(options: argparse.Namespace) -> dict[str, str]:
    """The labels that the options ask for. A path of Metaflow's names all that is above, too."""
    labels = {name: str(getattr(options, name)) for name in FILTERS if getattr(options, name, None)}
    for name in ("run", "task"):
        *above, last = labels.get(name, "").split("/")
        if above:
            labels.update(zip(FILTERS, [*above, last], strict=False))
    flow = getattr(options, "context", None)
    if flow is not None:
        labels.setdefault("flow", flow.name)
    if labels.get("flow") == ANY_FLOW:
        del labels["flow"]
    return labels


def find_here(options: argparse.Namespace) -> Survey:
    """The same of this machine's runs alone, which is all that can be visited; no other backend is asked."""
    if not options.backend:
        options.backend = used_by_runs()
    return find(options)


def find(options: argparse.Namespace) -> Survey:
    """Every sandbox that the options choose, the oldest first."""
    labels = wanted(options)
    named = options.backend or ()

    def listed(name: str) -> list[SandboxInfo]:
        try:
            backend = registry.load(name)
        except (BackendUnavailable, UnknownBackend):
            # Not installed. Asked for by name, that is no less than one that fails.
            if name in named:
                raise
            return []
        return list(backend.list(labels))

    answers = ask(names(options), listed, options.deadline)
    found: dict[str, Found] = {}
    for answer in answers:
        for info in answer.value or ():
            backend = info.labels.get("backend") or answer.backend
            # Some backends keep their records in one place: a sandbox is its own backend's.
            if info.id not in found or backend == answer.backend:
                its_state, kept = owner.state(info.labels), _kept_until(info)
                found[info.id] = Found(info.id, backend, info.labels, info.created, its_state, kept)
    ordered = sorted(found.values(), key=lambda sandbox: (sandbox.created, sandbox.id))
    failed = [answer for answer in answers if answer.problem]
    return Survey(
        ordered,
        unanswered=[answer for answer in failed if not answer.absent or answer.backend in named],
        unavailable=[answer for answer in failed if answer.absent and answer.backend not in named],
    )


def _kept_until(info: SandboxInfo) -> float | None:
    """Seconds since the epoch until which its run keeps it for a shell, None for one that is not kept."""
    directory = run_directories.find(info.labels.get(LABEL, ""))
    if directory is not None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return float((directory / f"{run_directories.KEPT}{info.id}").read_text())
    return None


def names(options: argparse.Namespace) -> list[str]:
    """The backends to ask: those named, else all, with those that runs on this machine name by a path."""
    if options.backend is not None:
        return list(options.backend)
    return list(dict.fromkeys([*registry.names(), *used_by_runs()]))


def used_by_runs() -> list[str]:
    """The backends of the runs on this machine."""
    used: list[str] = []
    for directory in run_directories.of_this_user():
        record = Path(directory, BACKENDS)
        if record.exists():
            used += record.read_text().split()
    return list(dict.fromkeys(used))


def destroy(sandboxes: list[Found], deadline: float) -> tuple[list[Found], list[Answer[None]]]:
    """End sandboxes, several at once: which are ended, and whose backend failed at it.

    ``deadline`` is for as many as are ended at once.
    """
    by_id = {sandbox.id: sandbox for sandbox in sandboxes}
    turns = threading.Semaphore(AT_ONCE)
    backends = {name: functools.cache(lambda name=name: registry.load(name)) for name in _of(sandboxes)}

    def end(sandbox_id: str) -> None:
        with turns:
            backends[by_id[sandbox_id].backend]().destroy(sandbox_id)

    rounds = -(-len(sandboxes) // AT_ONCE)
    answers = ask(by_id, end, deadline * rounds)
    failed = [replace(answer, backend=by_id[answer.backend].backend) for answer in answers if answer.problem]
    return [by_id[answer.backend] for answer in answers if not answer.problem], failed


def _of(sandboxes: list[Found]) -> set[str]:
    return {sandbox.backend for sandbox in sandboxes}
