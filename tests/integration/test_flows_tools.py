"""What comes after and around a run: the command line's logs and dump, tags, namespaces, Runner."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from .both_ways import SANDBOXED, Recorded, place, record
from .harness import BACKEND, read_results, run_flow

TAGGED = ("--tag", "of:this-run", "--tag", "second")
RUNNER = """
import json
from metaflow import Runner, namespace
namespace(None)
sandboxed = {"show_output": False, "decospecs": ["sandbox"]}
with Runner("small_flow.py", **sandboxed).run(number=5, tags=["by-runner"]) as first:
    print(json.dumps({
        "status": first.status,
        "total": first.run.data.total,
        "tags": sorted(first.run.user_tags),
        "inside": first.run["middle"].task.data.inside,
        "sandboxes": first.stderr.count(" · isolation ") + first.stdout.count(" · isolation "),
        "id": first.run.id,
    }))
with Runner("small_flow.py", **sandboxed) as runner:
    again = runner.resume(step_to_rerun="middle", origin_run_id=first.run.id)
    print(json.dumps({
        "status": again.status,
        "total": again.run.data.total,
        "origin": again.run["start"].task.origin_pathspec.split("/")[1],
    }))
"""
ASYNC_RUNNER = """
import asyncio, json
from metaflow import Runner, namespace
namespace(None)

async def main():
    with Runner("small_flow.py", show_output=False, decospecs=["sandbox"]) as runner:
        running = [await runner.async_run(number=number) for number in (1, 2)]
        for one in running:
            await one.wait()
        print(json.dumps([[one.status, one.run.data.total] for one in running]))
        lines = [line async for _, line in running[0].stream_log("stdout")]
        print(json.dumps(any("out of the middle" in line for line in lines)))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, Recorded]:
    """SmallFlow with tags, run plainly and sandboxed."""
    directory = tmp_path_factory.mktemp("tools")

    def run(name: str, *options: str) -> Recorded:
        flow = place("small_flow.py", directory / name, {})
        return record(run_flow(flow, "run", *options, *TAGGED), "SmallFlow")

    with ThreadPoolExecutor(2) as pool:
        plain, sandboxed = pool.submit(run, "plain"), pool.submit(run, "sandboxed", *SANDBOXED)
        return plain.result(), sandboxed.result()


def say(run: Recorded, *command: str) -> str:
    """What a command of the flow prints, without the run's own id and the sandbox's lines."""
    directory = run.process.directory
    text = run_flow(directory / "small_flow.py", "--quiet", *command).output
    lines = text.replace(str(run.run["id"]), "<run>").replace(str(directory), "<here>").splitlines()
    return "\n".join(line for line in lines if "[sandbox]" not in line)


def ask(run: Recorded, script: str) -> str:
    """What a Client API script prints; RUN is the run's id."""
    return read_results(run.process.directory, f"RUN = {run.run['id']!r}\nfrom metaflow import *\n{script}")


@pytest.mark.parametrize("stream", ["--stdout", "--stderr", "--both"])
def test_logs_are_shown(runs: tuple[Recorded, Recorded], stream: str) -> None:
    """Guards `flow.py logs`, for each stream."""
    plain, sandboxed = (say(run, "logs", f"{run.run['id']}/middle", stream) for run in runs)
    assert plain == sandboxed
    assert ("out of the middle" in sandboxed) == (stream != "--stderr")


def test_logs_tell_of_the_sandbox(runs: tuple[Recorded, Recorded]) -> None:
    """Guards that the line naming the sandbox is kept with the task's log, not only shown."""
    run = runs[1]
    flow = run.process.directory / "small_flow.py"
    text = run_flow(flow, "--quiet", "logs", f"{run.run['id']}/middle", "--stderr").output
    assert f"[sandbox] {BACKEND} {run.task('middle')['metadata']['sandbox-id']} " in text


def test_artifacts_are_dumped(runs: tuple[Recorded, Recorded]) -> None:
    """Guards `flow.py dump`, which reads the datastore without the Client."""
    plain, sandboxed = (
        say(
            run,
            "dump",
            f"{run.run['id']}/start/{run.task('start')['id']}",
            "--include",
            "doubled,number,name",
        )
        for run in runs
    )
    assert sorted(plain.splitlines()) == sorted(sandboxed.splitlines())
    assert "doubled" in sandboxed


def test_tags_and_namespace_are_seen_inside(runs: tuple[Recorded, Recorded]) -> None:
    """Guards `current.tags` and `current.namespace`, which travel on the command line."""
    for run in runs:
        assert run.value("middle", "tags") == "['of:this-run', 'second']"
        assert run.value("middle", "seen_namespace") == "'user:tester'"
        assert run.run["tags"] == ["of:this-run", "second"]


def test_runs_are_found_by_tag_and_namespace(runs: tuple[Recorded, Recorded]) -> None:
    """Guards what the Client filters by: the run's and its tasks' tags."""
    script = """
import json
found = {}
for name in ("user:tester", "user:someone_else", "second", None):
    namespace(name)
    try:
        flow = Flow("SmallFlow")
        found[str(name)] = [
            len(list(flow.runs())), len(list(flow.runs("second"))), len(list(flow.runs("third"))),
            len(list(flow[RUN]["middle"].tasks("second"))),
        ]
    except Exception as error:
        found[str(name)] = type(error).__name__
print(json.dumps(found))
"""
    plain, sandboxed = (json.loads(ask(run, script)) for run in runs)
    assert plain == sandboxed
    assert sandboxed["user:tester"] == [1, 1, 0, 1]
    assert sandboxed["user:someone_else"] == "MetaflowNamespaceMismatch"


def test_tags_can_be_changed_afterwards(runs: tuple[Recorded, Recorded]) -> None:
    """Guards `flow.py tag`, and the tasks' tags, which are those of their run."""
    run = runs[1]
    say(run, "tag", "add", "--run-id", run.run["id"], "later")
    script = "namespace(None)\nprint(*sorted(Run(f'SmallFlow/{RUN}')['middle'].task.user_tags))"
    assert ask(run, script).split() == ["later", "of:this-run", "second"]


def test_runner_runs_and_resumes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Guards metaflow.Runner, with options, and its resume."""
    directory = tmp_path_factory.mktemp("runner")
    place("small_flow.py", directory, {})
    first, again = map(json.loads, read_results(directory, RUNNER).splitlines())
    assert (first["status"], first["total"], first["tags"]) == ("successful", 110, ["by-runner"])
    assert (first["inside"], first["sandboxes"]) == ("1", 3)
    assert again == {"status": "successful", "total": 110, "origin": first["id"]}


def test_runner_runs_several_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Guards Runner.async_run: two sandboxed runs in one directory at once, and their logs."""
    directory = tmp_path_factory.mktemp("async-runner")
    place("small_flow.py", directory, {})
    (directory / ".metaflow").mkdir()  # of two that make it at once Metaflow ends one
    results, logged = map(json.loads, read_results(directory, ASYNC_RUNNER).splitlines())
    assert results == [["successful", 6], ["successful", 20]]
    assert logged
