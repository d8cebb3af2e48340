"""Run the same flow plainly and sandboxed, and compare what the Client API says about the two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .harness import IMAGE, FlowRun, place_flow, read_results, run_flow

DESCRIBE = Path(__file__).with_name("describe_run.py").read_text()
SANDBOXED = ("--with", "sandbox")
# What has to agree between a task that ran plainly and the same task in a sandbox.
TASK_FACTS = (
    "successful",
    "finished",
    "attempt",
    "index",
    "exception",
    "private",
    "stdout",
    "stderr",
    "tags",
    "parents",
)
RUN_FACTS = ("successful", "finished", "tags", "system_tags", "steps")
# Metadata of a task that says where it ran; an image has a Python of its own.
PLACES = ("ds-root", *(("python_version",) if IMAGE else ()))


@dataclass(frozen=True)
class Recorded:
    """One finished run: its process, and ``describe`` of describe_run.py."""

    process: FlowRun
    run: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]

    def task(self, step: str) -> Mapping[str, Any]:
        """The only task of a step."""
        (found,) = (task for key, task in self.tasks.items() if key.partition("[")[0] == step)
        return found

    def value(self, step: str, artifact: str) -> str:
        """The repr of an artifact of a step's only task."""
        return str(self.task(step)["artifacts"][artifact][1])


@dataclass(frozen=True)
class BothWays:
    """The two runs of one flow."""

    plain: Recorded
    sandboxed: Recorded


def record(process: FlowRun, flow: str, env: Mapping[str, str] | None = None) -> Recorded:
    """Describe the run that a process of a flow has made."""
    script = f"{DESCRIBE}\nimport json\nprint(json.dumps(describe({f'{flow}/{process.run_id}'!r})))"
    answer = json.loads(read_results(process.directory, script, env))
    return Recorded(process, answer["run"], answer["tasks"])


def place(name: str, directory: Path, files: Mapping[str, bytes]) -> Path:
    """Copy a flow with its companions; a file of no content is one of tests/integration/flows."""
    flow = place_flow(name, directory)
    for other, content in files.items():
        if content:
            (directory / other).write_bytes(content)
        else:
            place_flow(other, directory)
    return flow


def run_both_ways(
    name: str,
    flow: str,
    directory: Path,
    *arguments: str,
    files: Mapping[str, bytes] | None = None,
    env: Mapping[str, str] | None = None,
    reading: Mapping[str, str] | None = None,
) -> BothWays:
    """Run file ``name`` with class ``flow`` twice at once, in directories of their own.

    ``reading`` is the environment in which the Client reads the runs; the runs' own when not given.
    """

    def run(kind: str) -> Recorded:
        script = place(name, directory / kind, files or {})
        options = SANDBOXED if kind == "sandboxed" else ()
        process = run_flow(script, "run", *options, *arguments, env=env)
        return record(process, flow, env if reading is None else reading)

    with ThreadPoolExecutor(2) as pool:
        plain, other = pool.map(run, ("plain", "sandboxed"))
    return BothWays(plain, other)


def assert_same(both: BothWays) -> None:
    """The two runs agree in everything that the Client API says, apart from what has to differ."""
    found = differences(both)
    assert not found, "plain / sandboxed:\n" + "\n".join(found)


def differences(both: BothWays) -> list[str]:
    """A line for each fact that is not the same."""
    found = differing("run", both.plain.run, both.sandboxed.run, RUN_FACTS)
    if both.plain.tasks.keys() != both.sandboxed.tasks.keys():
        found.append(f"tasks: {sorted(both.plain.tasks)} / {sorted(both.sandboxed.tasks)}")
    for key in both.plain.tasks.keys() & both.sandboxed.tasks.keys():
        plain, other = both.plain.tasks[key], both.sandboxed.tasks[key]
        found += differing(key, plain, other, TASK_FACTS)
        found += differing(f"{key} metadata", shared_metadata(plain), shared_metadata(other))
        found += differing(f"{key} artifact", plain["artifacts"], other["artifacts"])
    return found


def differing(
    what: str, plain: Mapping[str, Any], other: Mapping[str, Any], names: Sequence[str] | None = None
) -> list[str]:
    """``what.NAME: plain / other`` of each value that is not the same."""
    return [
        f"{what}.{name}: {plain.get(name)!r} / {other.get(name)!r}"
        for name in names or sorted({*plain, *other})
        if plain.get(name) != other.get(name)
    ]


def shared_metadata(task: Mapping[str, Any]) -> dict[str, str]:
    """A task's metadata without what tells of the sandbox and of the place."""
    return {
        name: value
        for name, value in task["metadata"].items()
        if not name.startswith("sandbox-") and name not in PLACES
    }
