"""Direct mode: sandboxed steps that read and write the S3 datastore themselves give what plain ones give."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from . import outside
from .both_ways import (
    SANDBOXED,
    BothWays,
    Recorded,
    assert_same,
    differences,
    place,
    record,
    run_both_ways,
)
from .daytona import daytona_server
from .e2b import e2b_server
from .harness import read_results, run_flow
from .s3 import Bucket, bucket
from .test_flows_resume import break_and_resume
from .tour import DESCRIBE_CARDS

DIRECT = {"METAFLOW_SANDBOX_DATASTORE_ACCESS": "direct"}
# The launcher's own files mounted, and nothing but what is sent.
BACKENDS: Mapping[str, Mapping[str, str]] = {
    "bubblewrap": {"METAFLOW_SANDBOX_BACKEND": "bubblewrap", "METAFLOW_SANDBOX_NETWORK": "host"},
    "outside": {**outside.settings(), "METAFLOW_SANDBOX_NETWORK": "public"},
}
# What stands for each cloud, and the fault with which its sandboxes reach this machine's loopback.
CLOUDS: Mapping[str, tuple[Callable[[], Any], Mapping[str, bool]]] = {
    "daytona": (daytona_server, {}),
    "e2b": (e2b_server, {"network": True}),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    """A bucket."""
    with bucket() as made:
        yield made


@pytest.fixture(scope="module", params=BACKENDS)
def env(request: pytest.FixtureRequest, s3: Bucket) -> Mapping[str, str]:
    """The environment of a launcher whose steps are in direct mode."""
    return {**s3.settings, **DIRECT, **BACKENDS[request.param]}


@pytest.fixture(scope="module")
def decorated(tmp_path_factory: pytest.TempPathFactory, env: Mapping[str, str]) -> BothWays:
    """DecoratedFlow, both ways."""
    directory = tmp_path_factory.mktemp("direct")
    return run_both_ways("decorated_flow.py", "DecoratedFlow", directory, env=env)


def test_decorators_give_the_same_run(decorated: BothWays) -> None:
    """Guards failing, retried, caught and timed-out steps, whose metadata comes back through the bucket."""
    assert_same(decorated)
    assert decorated.sandboxed.run["successful"]
    assert decorated.sandboxed.task("retried")["attempt"] == 2


def test_nothing_but_results_is_left(decorated: BothWays, s3: Bucket) -> None:
    """Guards the launcher's part: a task is done when the launcher says so; nothing is refused or shown."""
    run = decorated.sandboxed.run["id"]
    names = s3.names(f"DecoratedFlow/{run}/retried/")
    files = {name.rpartition("/")[2] for name in names}
    for attempt in range(3):
        assert {f"{attempt}.data.json", f"{attempt}.DONE.lock", f"{attempt}.sandbox_records.tgz"} <= files
    output = decorated.sandboxed.process.output
    assert "refused" not in output
    assert "testing" not in output.replace("namespace", "")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, s3: Bucket) -> BothWays:
    """GraphFlow, both ways, with nothing of the launcher's inside."""
    env = {**s3.settings, **DIRECT, **BACKENDS["outside"]}
    return run_both_ways("graph_flow.py", "GraphFlow", tmp_path_factory.mktemp("graph"), env=env)


def test_transitions_give_the_same_run(graph: BothWays) -> None:
    """Guards branches, foreaches, joins, a switch and a loop, whose results the scheduler reads."""
    assert_same(graph)
    assert ast.literal_eval(graph.sandboxed.value("end", "rows")) == {"a": ["a0"], "b": ["b0", "b1"]}


def test_resume_gives_the_same_run(tmp_path: Path, env: Mapping[str, str]) -> None:
    """Guards resume: what a failed run left in the bucket is taken over, the rest runs again."""
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(break_and_resume, tmp_path / "plain", (), (), env)
        sandboxed = pool.submit(break_and_resume, tmp_path / "sandboxed", SANDBOXED, SANDBOXED, env)
        both = BothWays(plain.result()[1], sandboxed.result()[1])
    assert_same(both)
    assert both.sandboxed.value("end", "word") == "'ABC'"


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, env: Mapping[str, str]) -> Recorded:
    """A run of DirectFlow."""
    flow = place("direct_flow.py", tmp_path_factory.mktemp("direct"), {"words.txt": b"twelve\n"})
    return record(run_flow(flow, "run", *SANDBOXED, env=env), "DirectFlow", env)


def test_cards_inputs_and_included_files(direct: Recorded, env: Mapping[str, str]) -> None:
    """Guards what Metaflow itself reads and writes from inside: cards, included files, the Client."""
    assert direct.run["successful"]
    assert direct.value("end", "seen") == "['twelve\\n', [0, 1], 300]"
    assert ast.literal_eval(direct.value("end", "known")) == ["body", "body", True]
    script = f"""{DESCRIBE_CARDS}
run = Run('DirectFlow/{direct.run["id"]}', _namespace_check=False)
print(sum("This is the card" in json.dumps(cards_of(task, run.id)) for task in run["body"]))
"""
    assert read_results(direct.process.directory, script, env).strip() == "2"


def test_what_the_step_has_of_the_launcher(direct: Recorded) -> None:
    """Guards the launcher's keys: the datastore's are in the step's own files, not in its environment."""
    assert direct.value("end", "keys_in_environment") == "[]"
    assert direct.value("end", "key") == "'testing'"
    assert direct.value("end", "own_boto3_lists") == "True"


@pytest.mark.parametrize("name", CLOUDS)
def test_the_clouds_backends(tmp_path: Path, s3: Bucket, name: str) -> None:
    """Guards direct mode in the stand-ins for E2B and Daytona, over whatever carries their input."""
    run_stand_in, faults = CLOUDS[name]
    with run_stand_in() as server, server.failing(**faults):
        env = {
            **s3.settings,
            **DIRECT,
            **server.settings,
            "METAFLOW_SANDBOX_BACKEND": name,
            "METAFLOW_SANDBOX_NETWORK": "public",
            "METAFLOW_SANDBOX_IMAGE": "test-image",
        }
        both = run_both_ways("resume_flow.py", "ResumeFlow", tmp_path, env=env)
    assert not [each for each in differences(both) if "python_version" not in each]
    assert both.sandboxed.value("end", "word") == "'ABC'"
    assert "sandbox-id" in both.sandboxed.task("end")["metadata"]


def test_a_role_gives_the_step_keys_of_its_own(tmp_path: Path, s3: Bucket) -> None:
    """Guards the launcher's own keys, which stay outside where a role is configured."""
    env = {
        **s3.settings,
        **DIRECT,
        **BACKENDS["outside"],
        "METAFLOW_SANDBOX_S3_ROLE_ARN": "arn:aws:iam::123456789012:role/datastore",
        "METAFLOW_SANDBOX_S3_STS_ENDPOINT": s3.endpoint,
    }
    flow = place("direct_flow.py", tmp_path, {"words.txt": b"twelve\n"})
    run = record(run_flow(flow, "run", *SANDBOXED, env=env), "DirectFlow", env)
    assert run.value("end", "seen") == "['twelve\\n', [0, 1], 300]"
    assert ast.literal_eval(run.value("end", "key")) != "testing"
