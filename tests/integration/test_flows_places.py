"""Flows that are started from elsewhere, or keep their data elsewhere."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .both_ways import SANDBOXED, BothWays, Recorded, assert_same, place, record
from .harness import TIMEOUT, FlowRun, flow_environment
from .tour import check_tour, run_tour

MODULES = {
    "helpers_of_flow/__init__.py": "TOP = 'the top'\n",
    "helpers_of_flow/late.py": "LATE = 'imported late'\n",
    "helpers_of_flow/deep/__init__.py": "",
    "helpers_of_flow/deep/thing.py": "from .. import TOP\n\n\ndef thing():\n    return TOP + ', deep'\n",
}


@pytest.mark.parametrize("written", ["relative", "absolute"])
def test_flow_is_started_from_another_directory(tmp_path: Path, written: str) -> None:
    """Guards the code of a flow with packages, whose script has another path inside than outside."""
    flow = place("packaged_flow.py", tmp_path / "project" / "flows", {})
    for name, content in MODULES.items():
        module = flow.parent / name
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(content)
    script = str(flow) if written == "absolute" else os.path.relpath(flow, tmp_path / "project")

    def run(*options: str) -> Recorded:
        done = subprocess.run(
            [sys.executable, script, "run", *options],
            cwd=tmp_path / "project",
            env=flow_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        output = done.stdout.decode()
        assert done.returncode == 0, output
        return record(FlowRun(0, output, tmp_path / "project"), "PackagedFlow")

    both = BothWays(run(), run(*SANDBOXED))
    assert both.sandboxed.value("end", "things") == "['the top', 'the top, deep']"
    assert both.sandboxed.value("end", "late") == "'imported late'"
    assert_same(without_script_name(both))


def without_script_name(both: BothWays) -> BothWays:
    """The two runs but for the path of the script, which is on record as it was typed."""

    def without(run: Recorded) -> Recorded:
        tasks = {
            key: {**task, "metadata": {k: v for k, v in task["metadata"].items() if k != "script-name"}}
            for key, task in run.tasks.items()
        }
        return dataclasses.replace(run, tasks=tasks)

    return BothWays(without(both.plain), without(both.sandboxed))


def test_local_datastore_may_be_anywhere(tmp_path: Path) -> None:
    """Guards METAFLOW_DATASTORE_SYSROOT_LOCAL, and Metaflow's cards, which it does not move."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(elsewhere)}
    both = run_tour(tmp_path / "run", env)
    check_tour(both)
    assert (elsewhere / ".metaflow" / "TourFlow" / "data").is_dir()
    for run in (both.plain, both.sandboxed):
        kept = {
            path.suffix for path in run.process.directory.joinpath(".metaflow").rglob("*") if path.is_file()
        }
        assert kept == {".html", ".json"}
        cards = run.process.directory.joinpath(".metaflow", "mf.cards").rglob("cards/blank-*.html")
        assert len(list(cards)) == 2
