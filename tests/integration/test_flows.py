"""A sandboxed flow gives what a plain one gives: transitions, inputs, and Metaflow's own decorators."""

from __future__ import annotations

import ast

import pytest

from .both_ways import BothWays, Recorded, assert_same, run_both_ways
from .harness import BACKEND

BYTES = bytes(range(256))
LABEL = "spaced ünïcode 'quoted' \"label\" --with $HOME"


def ran_inside(recorded: Recorded) -> bool:
    """Whether every task of a run was in a sandbox."""
    return all(task["metadata"].get("sandbox-backend") == BACKEND for task in recorded.tasks.values())


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """GraphFlow, both ways."""
    return run_both_ways("graph_flow.py", "GraphFlow", tmp_path_factory.mktemp("graph"))


def test_transitions_give_the_same_run(graph: BothWays) -> None:
    """Guards every fact of a run with branches, foreaches, joins, a switch and a loop."""
    assert_same(graph)
    assert graph.sandboxed.run["successful"]
    assert ran_inside(graph.sandboxed)


def test_branches_are_joined_and_merged(graph: BothWays) -> None:
    """Guards merge_artifacts, which reads the artifacts of all inputs through the relay."""
    merged = graph.sandboxed.task("merge")["artifacts"]
    assert merged["only_left"] == ["list", "[1, 2.5, None]"]
    assert merged["differs"] == ["str", "'left+right'"]
    assert merged["agreed"] == ["tuple", "(1, 2)"]
    assert "only_right" not in merged


def test_nested_foreach_and_its_joins(graph: BothWays) -> None:
    """Guards the stacks of nested foreaches, which Metaflow's scheduler reads from each task."""
    assert ast.literal_eval(graph.sandboxed.value("end", "rows")) == {"a": ["a0"], "b": ["b0", "b1"]}
    assert ast.literal_eval(graph.sandboxed.tasks["inner[1, 1]#1"]["artifacts"]["place"][1]) == [
        (1, 2),
        (1, 2),
    ]


def test_switch_takes_one_road(graph: BothWays) -> None:
    """Guards conditional transitions: the other road must not run."""
    assert graph.sandboxed.value("end", "taken") == "'high'"
    assert "low" not in graph.sandboxed.run["steps"]


def test_loop_runs_until_it_is_enough(graph: BothWays) -> None:
    """Guards recursive transitions: each turn follows the one before."""
    assert graph.sandboxed.value("end", "turns") == "[0, 1, 2]"
    assert sum(key.startswith("loop[") for key in graph.sandboxed.tasks) == 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """InputsFlow, both ways, with parameters, tags and a configuration from the command line."""
    return run_both_ways(
        "inputs_flow.py",
        "InputsFlow",
        tmp_path_factory.mktemp("inputs"),
        *("--required", "12", "--label", LABEL, "--flag", "true", "--tag", "one", "--tag", "two:2"),
        files={
            "beside_flow.py": b"",
            "words.txt": "zwölf\nBoxkämpfer\n".encode(),
            "bytes.bin": BYTES,
            "settings.json": b'{"name": "five", "numbers": [4, 5], "nested": {"deep": "value"}}',
            "settings.env": b"COLOUR=blue SIZE=3",
        },
    )


def test_inputs_give_the_same_run(inputs: BothWays) -> None:
    """Guards every fact of a run with parameters, files, configurations, a project and tags."""
    assert_same(inputs)
    assert inputs.sandboxed.run["successful"]
    assert ran_inside(inputs.sandboxed)


def test_parameters_files_and_configurations_arrive(inputs: BothWays) -> None:
    """Guards what travels to a step: by the datastore, by the relay, by a file beside the command."""
    assert ast.literal_eval(inputs.sandboxed.value("start", "given")) == {
        "count": 3,
        "ratio": 0.5,
        "label": LABEL,
        "flag": True,
        "table": {"k": [1, None]},
        "late": "InputsFlow of tester",
        "required": 12,
        "text": "zwölf\nBoxkämpfer\n",
        "raw": BYTES,
        "none": None,
        "from_config": 5,
        "config": {"name": "five", "numbers": [4, 5], "nested": {"deep": "value"}},
        "nested": "value",
        "parsed": "blue",
        "variable": "five",
    }


def test_modules_beside_the_flow_are_there(inputs: BothWays) -> None:
    """Guards the code package, and artifacts of classes that are defined in it."""
    assert inputs.sandboxed.task("end")["artifacts"]["point"] == ["Point", "Point(x=1, y=3)"]


def test_current_says_what_it_says_locally(inputs: BothWays) -> None:
    """Guards `current`: names, tags, namespace and project are those that the launcher knows."""
    text = inputs.sandboxed.value("end", "seen")
    seen = ast.literal_eval(text)
    assert seen["flow_name"] == "InputsFlow"
    assert seen["step_name"] == "end"
    assert seen["username"] == "tester"
    assert seen["namespace"] == "user:tester"
    assert seen["retry_count"] == 0
    assert seen["project_name"] == "sandbox_tests"
    assert seen["tags"] == ["one", "two:2"]
    assert seen["pathspec"] and seen["task"] and seen["run"] and seen["is_running_flow"]


def test_client_works_inside(inputs: BothWays) -> None:
    """Guards the Client API in a step: its own run's records, its inputs' artifacts."""
    assert ast.literal_eval(inputs.sandboxed.value("end", "parents_saw")) == [(0, "look"), (1, "look")]
    assert {"start", "look", "gather"} <= set(ast.literal_eval(inputs.sandboxed.value("end", "steps")))


@pytest.fixture(scope="module")
def decorated(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """DecoratedFlow, both ways."""
    return run_both_ways("decorated_flow.py", "DecoratedFlow", tmp_path_factory.mktemp("decorated"))


def test_decorators_give_the_same_run(decorated: BothWays) -> None:
    """Guards every fact of a run whose steps fail, retry, are caught, time out and are provided for."""
    assert_same(decorated)
    assert decorated.sandboxed.run["successful"]
    assert ran_inside(decorated.sandboxed)


def test_retry_runs_again_in_a_new_sandbox(decorated: BothWays) -> None:
    """Guards @retry: three attempts, the last one's artifacts, its own sandbox."""
    task = decorated.sandboxed.task("retried")
    assert task["attempt"] == 2
    assert task["artifacts"]["attempts"] == ["int", "3"]
    assert "lost" not in task["artifacts"]
    output = decorated.sandboxed.process.output
    mine = [line for line in output.splitlines() if "/retried/" in line and f"[sandbox] {BACKEND}" in line]
    assert len({line.split(f"[sandbox] {BACKEND} ")[1].split()[0] for line in mine}) == 3


def test_catch_keeps_the_exception_and_goes_on(decorated: BothWays) -> None:
    """Guards @catch with and without @retry, and its fallback for a step whose process dies."""
    assert ast.literal_eval(decorated.sandboxed.value("end", "failures")) == {
        "caught": "builtins.KeyError",
        "caught_late": "builtins.RuntimeError",
        "fallen_back": "metaflow.plugins.catch_decorator.FailureHandledByCatch",
        "timed_out": "metaflow.plugins.timeout_decorator.TimeoutException",
    }
    assert decorated.sandboxed.task("caught")["artifacts"]["before"] == ["str", "'kept'"]


def test_fallback_of_catch_runs_without_a_sandbox(decorated: BothWays) -> None:
    """Guards the fallback: it runs no user code, so it is the launcher's own and costs no sandbox."""
    task = decorated.sandboxed.task("fallen_back")
    assert task["attempt"] == 2
    assert not task["sandbox_lines"]


def test_timeout_is_raised_in_the_step(decorated: BothWays) -> None:
    """Guards @timeout: the step's own exception comes first, not the end of the sandbox."""
    assert "TimeoutException" in decorated.sandboxed.task("timed_out")["artifacts"]["failure"][1]


def test_variables_and_secrets_arrive(decorated: BothWays) -> None:
    """Guards @environment and @secrets, with empty and unusual values."""
    assert ast.literal_eval(decorated.sandboxed.value("provided", "variables")) == {
        "WHO": "someone",
        "EMPTY": "",
        "SPACED": "a b=c",
        "API_KEY": "s3cr3t",
        "OTHER": "also",
    }
