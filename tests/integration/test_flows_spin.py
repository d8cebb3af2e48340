"""`spin` of a sandboxed step: alone, from an earlier run's artifacts, in a sandbox again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from .both_ways import place
from .harness import BACKEND, FlowRun, read_results, run_flow

ARTIFACTS = b"ARTIFACTS = {'factor': 1000}\n"


@dataclass(frozen=True)
class Spun:
    """A run of SpinFlow, and the ids of its tasks."""

    flow: Path
    run: FlowRun
    body: str
    join: str

    def spin(self, pathspec: str, *options: str, check: bool = True) -> FlowRun:
        """Spin a task of the run."""
        return run_flow(self.flow, "spin", *options, f"SpinFlow/{self.run.run_id}/{pathspec}", check=check)

    def artifacts(self, step: str, process: FlowRun) -> dict[str, object]:
        """Artifacts that a task made when it was spun, read with Metaflow's Client.

        What it has by reference, its parameters, Metaflow leaves in the datastore of the run.
        """
        script = (
            "import json\nfrom metaflow import Step, inspect_spin, namespace\n"
            "inspect_spin('.')\nnamespace(None)\n"
            f"task = Step('SpinFlow/{spun_id(process)}/{step}').task\n"
            "made = {a.id: a.data for a in task if a.id not in ('pathspec', 'factor')}\n"
            "print(json.dumps(made, default=repr))"
        )
        found: dict[str, object] = json.loads(read_results(self.flow.parent, script))
        return found


def spun_id(process: FlowRun) -> str:
    """The id that a spun task's run was given."""
    line = next(line for line in process.output.splitlines() if "Task is starting" in line)
    return line.split("[", 1)[1].split("/", 1)[0]


@pytest.fixture(scope="module")
def spun(tmp_path_factory: pytest.TempPathFactory) -> Spun:
    """A sandboxed run to spin tasks of."""
    directory = tmp_path_factory.mktemp("spin")
    flow = place("spin_flow.py", directory, {"changed_artifacts.py": ARTIFACTS})
    run = run_flow(flow, "run", "--factor", "20")
    script = (
        "from metaflow import Run, namespace\nnamespace(None)\n"
        f"run = Run('SpinFlow/{run.run_id}')\n"
        "print(next(task.id for task in run['body'] if task.index == 1), run['join'].task.id)"
    )
    body, join = read_results(directory, script).split()
    return Spun(flow, run, body, join)


def test_task_of_a_foreach_is_spun(spun: Spun) -> None:
    """Guards spin: its parameters, its place in the foreach, its artifacts and its sandbox."""
    process = spun.spin(f"body/{spun.body}", "--persist")
    assert process.output.count(f"[sandbox] {BACKEND} ") == 1
    assert "spun 41" in process.output
    found = spun.artifacts("body", process)
    assert found["result"] == 41
    assert found["inside"] == "1"


def test_sandboxed_spin_gives_what_a_plain_one_gives(spun: Spun) -> None:
    """Guards the results of a join that is spun, against the same step without its decorators."""
    plain = spun.spin(f"join/{spun.join}", "--persist", "--skip-decorators")
    sandboxed = spun.spin(f"join/{spun.join}", "--persist")
    assert "[sandbox]" not in plain.output
    assert f"[sandbox] {BACKEND} " in sandboxed.output
    ours, theirs = spun.artifacts("join", sandboxed), spun.artifacts("join", plain)
    assert (ours.pop("inside"), theirs.pop("inside")) == ("1", None)
    assert ours == theirs
    assert sorted(str(ours["results"])[1:-1].split(", ")) == ["21", "41", "61"]


def test_artifacts_can_be_replaced(spun: Spun) -> None:
    """Guards --artifacts-module, a file of the launcher that has to be there inside."""
    process = spun.spin(f"body/{spun.body}", "--artifacts-module", "changed_artifacts.py")
    assert "spun 2001" in process.output


def test_artifacts_module_may_be_anywhere(spun: Spun, tmp_path: Path) -> None:
    """Guards --artifacts-module outside of the flow's directory, which no sandbox sees."""
    module = tmp_path / "elsewhere.py"
    module.write_bytes(ARTIFACTS)
    process = spun.spin(f"body/{spun.body}", "--artifacts-module", str(module))
    assert "spun 2001" in process.output


def test_card_of_a_spun_step_is_kept(spun: Spun) -> None:
    """Guards cards in spin's own datastore."""
    process = spun.spin(f"body/{spun.body}", "--persist")
    cards = spun.flow.parent / ".metaflow_spin" / "mf.cards" / "SpinFlow" / "runs" / spun_id(process)
    assert len(list(cards.rglob("cards/blank-*.html"))) == 1


def test_runner_spins(spun: Spun) -> None:
    """Guards Runner.spin."""
    script = f"""
from metaflow import Runner
pathspec = "SpinFlow/{spun.run.run_id}/body/{spun.body}"
with Runner("spin_flow.py", show_output=False).spin(pathspec, persist=True) as spun:
    print(spun.status, spun.task["result"].data, spun.task["inside"].data)
"""
    assert read_results(spun.flow.parent, script).split() == ["successful", "41", "1"]
