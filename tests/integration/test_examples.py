"""The flows of examples/, run as their reader would, on the default backend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .engines import Podman
from .harness import FlowRun, run_flow

EXAMPLES = Path(__file__).parents[2] / "examples"
# Demos need a service or stand-ins: scripts/demo and scripts/demo-cloud run them.
ELSEWHERE = {"demo.py", "demo_results.py", "demo_cloud.py", "demo_cloud_results.py"}


def run_example(name: str, directory: Path, *arguments: str, check: bool = True, **env: str) -> FlowRun:
    """Run one example in a directory of its own."""
    return run_flow(Path(shutil.copy(EXAMPLES / name, directory)), "run", *arguments, env=env, check=check)


def test_agent_evaluation_counts_what_the_tools_said(tmp_path: Path) -> None:
    """A tool call that reaches the host's files, or an episode that is lost, shows in the score."""
    output = run_example("agent_evaluation.py", tmp_path).output
    said = json.loads(output[output.index('{"passed"') :].partition("\n")[0])
    assert said == {"passed": 8, "of": 8, "failed": []}
    assert output.count("[sandbox] bubblewrap") == 8


def test_untrusted_code_finds_nothing(tmp_path: Path) -> None:
    """The submission gets its data; the home, the token and the network stay out of its reach."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "id_rsa").write_text("secret")
    output = run_example("untrusted_code.py", tmp_path, "--home", str(home), API_TOKEN="secret").output
    for line in ("answer 23", "found home []", "found keys []", "found network False"):
        assert line in output


def test_native_library_crashes_alone(tmp_path: Path) -> None:
    """A segmentation fault ends its own sandbox, and the other inputs have their results."""
    assert "lengths [8, 11] crashes 2" in run_example("native_library.py", tmp_path).output


def test_gpu_multiplies_or_is_refused(tmp_path: Path, podman: Podman) -> None:
    """Guards against a step that computes without the GPU it asked for, and a pull that is for nothing."""
    run = run_example("gpu.py", tmp_path, check=False, DOCKER_HOST=podman.url)
    if run.returncode == 0:
        assert "trace" in run.output
    else:
        assert "gpu" in run.output.lower()
        assert "pulling" not in run.output


def test_every_example_is_run() -> None:
    """An example without a test is the first thing that stops working."""
    here = Path(__file__).read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert [name for name in sorted(names - ELSEWHERE) if f'"{name}"' not in here] == []
    assert names >= ELSEWHERE
