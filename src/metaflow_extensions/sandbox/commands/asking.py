"""Asks several backends at once, and waits for none longer than its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import BackendUnavailable, SandboxError, UnknownBackend

T = TypeVar("T")
_asked: list[threading.Thread] = []


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What one backend answered: a value, or why there is none; ``absent`` when it can't run here at all."""

    backend: str
    value: T | None = None
    problem: str | None = None
    absent: bool = False


def ask(backends: Iterable[str], question: Callable[[str], T], deadline: float) -> list[Answer[T]]:
    """Each backend's answer, in their order; ``deadline`` is in seconds, and of all together."""
    names = list(dict.fromkeys(backends))
    answers: dict[str, Answer[T]] = {}

    def put(name: str) -> None:
        try:
            answers[name] = Answer(name, question(name))
        except (BackendUnavailable, UnknownBackend) as error:
            answers[name] = Answer(name, problem=str(error), absent=True)
        except SandboxError as error:
            answers[name] = Answer(name, problem=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 -- a backend is foreign code: it costs only its own answer
            answers[name] = Answer(name, problem=f"it failed with {type(error).__name__}: {error}")

    # SDKs may hang whatever they are told: nobody waits for a daemon's end.
    threads = [threading.Thread(target=put, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    _asked.extend(threads)
    until = time.monotonic() + deadline
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    silent = f"it did not answer within {deadline:g} s: --deadline SECONDS waits longer"
    return [answers.get(name) or Answer(name, problem=silent) for name in names]


def is_anybody_silent() -> bool:
    """Whether a question still waits for its answer, which can keep the interpreter from ending."""
    return any(thread.is_alive() for thread in _asked)
