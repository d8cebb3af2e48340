"""What our metadata service answers otherwise than metaflow-local-service, request by request.

Each test runs against both, and is expected to fail with the latter: when one passes, it is mended there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .ask_service import artifact, ask, entry, new_run, new_task
from .services import UPSTREAM, WHOLE, Service, running

SERVICES = [
    pytest.param(WHOLE, id="whole"),
    pytest.param(UPSTREAM, id="upstream", marks=pytest.mark.xfail(strict=True, raises=AssertionError)),
]
FOREIGN = "rebound.example"
NOT_NAMES = ("..", "%2e%2e", "a%2Fb", "a%00b", "a%0Ab", "*", "%3F", "x" * 300, "a%5Cb", "_meta")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Service]]:
    """Both."""
    place = tmp_path_factory.mktemp("services")
    with running(WHOLE, place / "whole") as whole, running(UPSTREAM, place / "upstream") as upstream:
        yield {WHOLE: whole, UPSTREAM: upstream}


@pytest.fixture(params=SERVICES)
def url(request: pytest.FixtureRequest, services: dict[Any, Service]) -> str:
    """The URL of one of them."""
    return services[request.param].url


# --- what the Client and the scheduler ask for -------------------------------------------------


def test_one_artifact_by_its_name(url: str) -> None:
    """Guards task['name'], on which successful, finished, exception and index rest."""
    task = new_task(url, new_run(url))
    ask(url, "POST", f"{task}/artifact", [artifact("x", 0), artifact("x", 1), artifact("y", 1)])
    ask(url, "POST", f"{task}/metadata", [entry("attempt-done", "0"), entry("attempt-done", "1", 1)])
    assert ask(url, "GET", f"{task}/artifacts/x").json.get("sha") == "x of 1"
    assert ask(url, "GET", f"{task}/artifacts/x/attempt/0").json.get("sha") == "x of 0"
    assert ask(url, "GET", f"{task}/artifacts/y/attempt/0").status == 404
    assert ask(url, "GET", f"{task}/artifacts/z").status == 404


def test_artifacts_are_those_of_the_latest_attempt_that_is_done(url: str) -> None:
    """Guards a retried task's data: an earlier attempt's, or a running one's, must not show through."""
    task = new_task(url, new_run(url))
    ask(url, "POST", f"{task}/artifact", [artifact(name, attempt) for attempt in (0, 1) for name in "ab"])
    assert ask(url, "GET", f"{task}/artifacts").json == []
    ask(url, "POST", f"{task}/metadata", [entry("attempt-done", "0")])
    found = ask(url, "GET", f"{task}/artifacts").json
    assert sorted(each["sha"] for each in found) == ["a of 0", "b of 0"]


def test_list_of_one_artifact_is_a_list(url: str) -> None:
    """Guards a task with a single artifact, which the local provider returns bare; with an attempt, too."""
    task = new_task(url, new_run(url))
    ask(url, "POST", f"{task}/artifact", [artifact("only")])
    ask(url, "POST", f"{task}/metadata", [entry("attempt-done", "0")])
    ask(url, "POST", f"{task}/artifact", [artifact("next", 1)])
    for path in (f"{task}/artifacts", f"{task}/attempt/0/artifacts"):
        assert [each["name"] for each in ask(url, "GET", path).json] == ["only"]


def test_all_flows(url: str) -> None:
    """Guards Metaflow(), the list of all flows."""
    new_run(url, "OneFlow")
    found = ask(url, "GET", "/flows").json
    assert isinstance(found, list)
    assert "OneFlow" in {flow["flow_id"] for flow in found}


def test_heartbeat_answer_is_what_the_sidecar_reads(url: str) -> None:
    """Guards heartbeats: Metaflow's sidecar decodes the answer twice, and dies of any other."""
    run = new_run(url)
    for path in (run, new_task(url, run)):
        answer = ask(url, "POST", f"{path}/heartbeat", {})
        assert answer.status == 200
        assert isinstance(answer.json, str)
        assert json.loads(answer.json)["wait_time_in_seconds"] > 0
        assert ask(url, "GET", path).json["last_heartbeat_ts"] <= time.time() + 1


def test_ids_that_the_client_chooses(url: str) -> None:
    """Guards @parallel's workers and schedulers, which name their runs and tasks themselves."""
    ask(url, "POST", "/flows/ChosenFlow", {})
    for _ in range(2):
        run = ask(url, "POST", "/flows/ChosenFlow/run", {"run_number": "argo-chosen-1"})
    task = "/flows/ChosenFlow/runs/argo-chosen-1/steps/start/task"
    statuses = [ask(url, "POST", task, {"task_id": "t-abc"}).status for _ in range(2)]
    assert (run.status, statuses) == (409, [201, 409])
    assert ask(url, "GET", f"{task}s/t-abc").json["task_id"] == "t-abc"


def test_tags_keep_the_rest_of_a_run(url: str) -> None:
    """Guards created_at and the user of a run whose tags change; and errors in words, not in JSON."""
    run = new_run(url)
    before = ask(url, "GET", run).json
    time.sleep(0.01)
    changed = ask(url, "PATCH", f"{run}/tag/mutate", {"tags_to_add": ["b", "a"]})
    assert changed.json == {"tags": ["a", "b"]}
    assert ask(url, "GET", run).json == {**before, "tags": ["a", "b"]}
    refused = ask(url, "PATCH", f"{run}/tag/mutate", {"tags_to_remove": ["system:1"]})
    assert (refused.status, refused.json) == (422, None)


def test_no_metadata_is_lost_in_one_millisecond(url: str) -> None:
    """Guards entries of one field that come at once: files whose names hold a millisecond are too few."""
    task = new_task(url, new_run(url))

    def add(batch: int) -> int:
        entries = [entry("field", f"{batch}.{number}") for number in range(100)]
        return ask(url, "POST", f"{task}/metadata", entries).status

    # Many, and at once: on a busy machine a batch may take longer than it has milliseconds.
    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(add, range(10))) == {200}
    assert len({each["value"] for each in ask(url, "GET", f"{task}/metadata").json}) == 1000


def test_any_field_is_kept(url: str) -> None:
    """Guards fields whose names could not be files."""
    task = new_task(url, new_run(url))
    fields = ["a/b", "../../escaped", "long" * 100, "*", "nul\0"]
    assert ask(url, "POST", f"{task}/metadata", [entry(field, "x") for field in fields]).status == 200
    assert sorted(each["field_name"] for each in ask(url, "GET", f"{task}/metadata").json) == sorted(fields)


def test_clock_set_back(url: str, services: dict[Any, Service]) -> None:
    """Guards the latest run, and a task's latest metadata, after the clock was set back by hours."""
    later = round(time.time() * 1000) + 3_600_000
    root = next(service.directory for service in services.values() if service.url == url)
    run = new_run(url, "LaterFlow")
    record = {**ask(url, "GET", run).json, "run_number": str(later * 1000), "ts_epoch": later}
    folder = Path(root, ".metaflow", "LaterFlow", str(later * 1000), "_meta")
    folder.mkdir(parents=True)
    (folder / "_self.json").write_text(json.dumps(record))
    after = ask(url, "GET", new_run(url, "LaterFlow")).json
    assert int(after["run_number"]) > later * 1000
    assert after["ts_epoch"] >= later
    task = new_task(url, run)
    for attempt, ts in ((0, later), (1, later - 3_600_000)):
        ask(url, "POST", f"{task}/metadata", [entry("attempt", str(attempt), attempt, ts_epoch=ts)])
    found = sorted(ask(url, "GET", f"{task}/metadata").json, key=lambda each: each["ts_epoch"])
    assert [each["value"] for each in found] == ["0", "1"]
    assert found[0]["ts_epoch"] < found[1]["ts_epoch"]


def test_nothing_is_kept_of_what_there_is_not(url: str) -> None:
    """Guards against records that no Client finds, because the task, the run or the flow is missing."""
    run = new_run(url)
    missing = [f"{run}/steps/start/tasks/9/metadata", f"{run}/steps/start/tasks/9/artifact"]
    assert {ask(url, "POST", path, []).status for path in missing} == {404}
    assert ask(url, "POST", "/flows/NoFlow/runs/1/steps/start/task", {}).status == 404
    assert ask(url, "POST", f"{run}/steps/start/tasks/9/heartbeat", {}).status == 404


def test_filter_by_a_pattern_that_is_none(url: str) -> None:
    """Guards against a 500, and a value that is null."""
    task = new_task(url, new_run(url))
    ask(url, "POST", f"{task}/metadata", [entry("a", None), entry("a", "xyz")])
    step = task.rpartition("/tasks/")[0]
    found = ask(url, "GET", f"{step}/filtered_tasks?metadata_field_name=a&pattern=y")
    assert [each.rpartition("/")[2] for each in found.json or []] == [task.rpartition("/")[2]]
    assert ask(url, "GET", f"{step}/filtered_tasks?metadata_field_name=a&pattern=(").status == 400


# --- what it refuses ---------------------------------------------------------------------------


def test_malformed_bodies(url: str) -> None:
    """Guards against records made of nothing: what is no JSON, or has another shape, is refused."""
    run = new_run(url)
    task = new_task(url, run)
    for body in (b"{", b"", b"\xff", b"[" * 100_000, [], "text", {"tags": "text"}, {"ts_epoch": "x"}):
        assert ask(url, "POST", "/flows/AFlow/run", body).status == 400, body[:20]
    for body in (b"nonsense", [1], [{"name": 1}], [{"name": "../x"}], [{"name": "x", "attempt_id": "0"}]):
        assert ask(url, "POST", f"{task}/artifact", body).status == 400, body
    for body in (b"nonsense", [1], [{}], [{"field_name": 1}]):
        assert ask(url, "POST", f"{task}/metadata", body).status == 400, body
    assert ask(url, "PATCH", f"{run}/tag/mutate", b"nonsense").status == 400


@pytest.mark.parametrize("name", NOT_NAMES, ids=[name[:8] for name in NOT_NAMES])
def test_what_is_no_name(url: str, name: str) -> None:
    """Guards the store: a name must not lead out of it, match others, or fail as a file's name."""
    run = new_run(url)
    assert ask(url, "GET", f"/flows/{name}").status == 400
    assert ask(url, "POST", f"/flows/{name}", {}).status == 400
    assert ask(url, "GET", f"{run}/steps/{name}/tasks").status == 400
    assert ask(url, "GET", f"{run}/steps/start/tasks/1/artifacts/{name}").status == 400


@pytest.mark.parametrize("name", ["../up", "a/b", "nul\0", "x" * 300, "*"])
def test_chosen_ids_are_names(url: str, name: str) -> None:
    """Guards the store against ids in a body."""
    run = new_run(url)
    assert ask(url, "POST", "/flows/AFlow/run", {"run_number": name}).status == 400
    assert ask(url, "POST", f"{run}/steps/start/task", {"task_id": name}).status == 400


def test_other_hosts(url: str) -> None:
    """Guards against a page whose name was made to resolve to 127.0.0.1."""
    port = url.rpartition(":")[2]
    for host in (FOREIGN, f"{FOREIGN}:{port}", "127.0.0.1.nip.example", "", "[::ffff:8.8.8.8]", "["):
        assert ask(url, "GET", "/ping", headers={"Host": host}).status == 403, host
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "[::1]"):
        assert ask(url, "GET", "/ping", headers={"Host": host}).status == 200, host


def test_pages_from_elsewhere(url: str) -> None:
    """Guards against any page in the user's browser that writes to or reads from the service."""
    for origin in (f"https://{FOREIGN}", "null"):
        assert ask(url, "GET", "/api/flows", headers={"Origin": origin}).status == 403
    own = ask(url, "GET", "/api/flows", headers={"Origin": "http://localhost:3000"})
    assert (own.status, own.headers["access-control-allow-origin"] != "") == (200, True)
