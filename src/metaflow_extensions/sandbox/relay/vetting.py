"""Accept or refuse what a sandboxed step wants to store, without ever unpickling it.

Metaflow's scheduler unpickles some artifacts of each finished task on the launcher, where a hostile pickle
would run. Those are always vetted, against the few names that Metaflow's own bookkeeping needs. Under the
policy "vetted" all other artifacts are as well, against ``DATA_GLOBALS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from mmap import mmap
from typing import Final

from ..errors import RelayError, UnsupportedOption
from .pickle_rules import DATA_GLOBALS, SCHEDULER_GLOBALS, Rules
from .pickle_scan import MAX_OPERATIONS, scan
from .task_json import canonical_json, check_data_json

__all__ = [
    "DATA_GLOBALS",
    "MAX_SCHEDULER_ARTIFACT",
    "PICKLE_ENCODINGS",
    "SCHEDULER_ARTIFACTS",
    "SCHEDULER_GLOBALS",
    "ArtifactPolicy",
    "canonical_json",
    "check_data_json",
    "scheduler_artifacts",
    "vet_artifact",
    "vet_scheduler_artifact",
]

MAX_SCHEDULER_ARTIFACT: Final = 1 << 20
"""Bytes, unpacked."""

# Bounds the nesting that a chain of one-item tuples can reach: hashing one recurses in C without a check.
_MAX_SCHEDULER_OPERATIONS = 1 << 15

SCHEDULER_ARTIFACTS: Final = frozenset(
    {
        # metaflow/runtime.py, clone_util.py and TaskDataStore.pathspec_index, read in 2.19.39
        "_control_mapper_tasks",
        "_control_task_is_mapper_zero",
        "_foreach_num_splits",
        "_foreach_stack",
        "_foreach_var",
        "_iteration_stack",
        "_task_ok",
        "_transition",
        "_unbounded_foreach",
        # Not the scheduler's, but what Client and Runner read to tell whether a run succeeded: a bool.
        "_success",
    }
)
"""Artifacts of a task that Metaflow unpickles by itself, in the scheduler, on resume and to report success.

The one named by the *value* of ``_foreach_var`` is read too when ``_unbounded_foreach`` is there:
``scheduler_artifacts`` adds it.
"""

PICKLE_ENCODINGS: Final = frozenset({"pickle-v2", "pickle-v4", "gzip+pickle-v2", "gzip+pickle-v4"})
"""``PickleSerializer._ENCODINGS`` of Metaflow 2.19.39; the prefix says nothing about the bytes."""

_PATTERN = re.compile(r"(?!\d)\w+(?:\.(?!\d)\w+)*(?:\.\*|(?::(?!\d)\w+(?:\.(?!\d)\w+)+))?", re.ASCII)


@dataclass(frozen=True)
class ArtifactPolicy:
    """What a step's artifacts may hold: "any" pickle, or only "vetted" ones.

    ``extra_globals`` widens "vetted": ``module.name``, ``module:Outer.Inner``, or ``package.*``, which trusts
    everything reachable below the package, functions that read files or evaluate text included. A global
    named here is exempt from every rule, such as those that keep numpy's memory safe.
    """

    mode: str = "any"
    extra_globals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in ("any", "vetted"):
            raise UnsupportedOption(f"artifacts={self.mode!r} is not known; use 'any' or 'vetted'")
        for pattern in self.extra_globals:
            if not _PATTERN.fullmatch(pattern) or not re.search(r"[.:]", pattern):
                raise UnsupportedOption(
                    f"{pattern!r} names no global; write 'module.name', 'module:Outer.Inner' or 'package.*'"
                )

    def trusts(self, name: str) -> bool:
        """Whether ``extra_globals`` names this global."""
        return any(
            name.startswith(pattern[:-1]) and ":" not in name if pattern.endswith(".*") else name == pattern
            for pattern in self.extra_globals
        )


def scheduler_artifacts(objects: Collection[str], load: Callable[[str, int], bytes]) -> frozenset[str]:
    """Those of a task's artifact names that must pass ``vet_scheduler_artifact``.

    ``load(name, max_size)`` returns the unpacked bytes of one. An unbounded foreach lets the task name one
    more in ``_foreach_var``; it counts as soon as ``_unbounded_foreach`` exists, whatever its value: Metaflow
    decides from the recorded type or from the value, and both are the task's own word.
    Raises RelayError when ``_foreach_var`` holds neither a plain string nor None.
    """
    names = SCHEDULER_ARTIFACTS.intersection(objects)
    if {"_unbounded_foreach", "_foreach_var"} <= names:
        pickled = load("_foreach_var", MAX_SCHEDULER_ARTIFACT)
        target = scan(pickled, Rules(frozenset()), max_operations=_MAX_SCHEDULER_OPERATIONS)
        if target is not None and not isinstance(target, str):
            raise RelayError(
                "_foreach_var of an unbounded foreach is no plain string; name an attribute in self.next()"
            )
        if isinstance(target, str) and target in objects:
            names |= {target}
    return names


def vet_scheduler_artifact(name: str, encoding: str, pickled: bytes) -> None:
    """Raise RelayError unless the scheduler can unpickle the bytes without running anything of the task's."""
    if len(pickled) > MAX_SCHEDULER_ARTIFACT:
        raise _refused(name, f"over {MAX_SCHEDULER_ARTIFACT >> 20} MiB")
    try:
        _vet(name, encoding, pickled, Rules(SCHEDULER_GLOBALS, sharing=False), _MAX_SCHEDULER_OPERATIONS)
    except RelayError as error:
        raise RelayError(f"{error}; the scheduler reads it, so it holds plain values only") from None


def vet_artifact(name: str, encoding: str, content: bytes | mmap, policy: ArtifactPolicy) -> None:
    """Raise RelayError unless the policy accepts the artifact; "any" accepts everything unread."""
    if policy.mode == "any":
        return
    try:
        _vet(name, encoding, content, Rules(DATA_GLOBALS, policy.trusts), MAX_OPERATIONS)
    except RelayError as error:
        raise RelayError(
            f"{error}; store plain values, or name what it needs in METAFLOW_SANDBOX_ARTIFACT_GLOBALS"
        ) from None


def _vet(name: str, encoding: str, pickled: bytes | mmap, rules: Rules, max_operations: int) -> None:
    if encoding not in PICKLE_ENCODINGS:
        raise _refused(name, f"the encoding {encoding[:80]!r} is none of Metaflow's pickles")
    try:
        scan(pickled, rules, max_operations=max_operations)
    except RelayError as error:
        raise _refused(name, str(error)) from None


def _refused(name: str, cause: str) -> RelayError:
    return RelayError(f"artifact {name!r} refused: {cause}")
