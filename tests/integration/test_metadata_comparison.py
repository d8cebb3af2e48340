"""The Client's answers through a metadata service are those that the local provider gives.

Each provider gets the same flows, plain and sandboxed, and is asked the questions of ask_client.py. Where
metaflow-local-service alone answers otherwise is listed, strictly: the day it agrees, an addition can go.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .ask_client import CHANGES, QUESTIONS
from .both_ways import SANDBOXED
from .bucket import bucket
from .harness import RUN_ID, TIMEOUT, flow_environment, place_flow, run_flow
from .live import LiveFlow, live_flow
from .once import made_by_one, session_directory
from .services import UPSTREAM, WHOLE, Service, running

# The first test waits for the flows of them all.
pytestmark = pytest.mark.timeout(900)

ASK = Path(__file__).with_name("ask_client.py")


@dataclass(frozen=True)
class Way:
    """Options of the flows' command lines, and whether their datastore is a bucket instead of a directory."""

    options: tuple[str, ...] = ()
    s3: bool = False


HOW = {
    "plain": Way(),
    "sandboxed": Way(SANDBOXED),
    # What the tasks say of themselves comes back through the bucket.
    "direct": Way(("--with", "sandbox:datastore_access=direct,network=host"), s3=True),
}
# The services keep no artifacts: upstream alone is asked once of each kind of task.
UPSTREAM_HOW = ("plain", "sandboxed")
RUNS = ("recorded", "failed", "resumed", "running", "killed")
NAMES = [question.__name__ for question in (*QUESTIONS, *CHANGES)]
# What metaflow-local-service 0.2 alone answers otherwise. Metaflow asks for one artifact by its name wherever
# it wants to know how a task ended, or where it is in a foreach.
BY_NAME = {
    "artifact_absent",
    "artifact_by_name",
    "artifact_by_path",
    "attempts",
    "relatives",
    "task_facts",
    "times",
}
# It has no list of flows, and tells why tags are refused in JSON that Metaflow shows as it is.
EVERYWHERE = {"changed_tags", "flows"}
# It gives one list of the artifacts of all attempts.
OF_ATTEMPTS = {"artifact_list_with_private", "artifact_lists"}
UPSTREAM_DIFFERS = {
    "recorded": {*EVERYWHERE, *BY_NAME, *OF_ATTEMPTS, "run_facts"},
    "failed": {*EVERYWHERE, *BY_NAME},
    "resumed": {*EVERYWHERE, *BY_NAME, "run_facts"},
    "running": EVERYWHERE,
    "killed": EVERYWHERE,
}


@dataclass
class Answered:
    """What one provider said, by run and question; of the service also each run, by it and from files."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    exact: dict[str, list[Any]] = field(default_factory=dict)


def ask(pathspec: str, what: str, env: Mapping[str, str]) -> Any:
    """Answers of ask_client.py."""
    done = subprocess.run(
        [sys.executable, str(ASK), pathspec, what],
        env=flow_environment(env),
        cwd="/",
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


def answered(directory: Path, env: Mapping[str, str], options: tuple[str, ...], exact: bool) -> Answered:
    """Run the flows with a provider, and ask it."""
    (directory / ".metaflow").mkdir(parents=True, exist_ok=True)
    env = {**env, "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(directory)}
    from_files = {**env, "METAFLOW_DEFAULT_METADATA": "local"}
    # So that what is interrupted when another task fails is not left to chance.
    one_by_one = ("--max-workers", "1")
    told, ids = Answered(), {}

    def look(name: str, pathspec: str) -> None:
        if exact:
            told.exact[name] = [ask(pathspec, "exact", by) for by in (env, from_files)]
        told.answers[name] = ask(pathspec, "answers", env)
        ids[name] = pathspec

    def flow(name: str, *arguments: str, code: int = 0, extra: Mapping[str, str] | None = None) -> str:
        done = run_flow(
            place_flow(name, directory), *arguments, *options, env={**env, **(extra or {})}, check=False
        )
        assert done.returncode == code, done.output
        return done.run_id

    recorded = f"RecordedFlow/{flow('recorded_flow.py', 'run', '--tag', 'first', '--tag', 'second')}"
    broken = {"BROKEN": "yes"}
    failed = f"ResumeFlow/{flow('resume_flow.py', 'run', *one_by_one, code=1, extra=broken)}"
    resumed = f"ResumeFlow/{flow('resume_flow.py', 'resume')}"
    with live_flow("waiting_flow.py", "run", *options, env=env) as waiting:
        waiting.wait_for("ready")
        waited = f"WaitingFlow/{found_run(waiting)}"
        look("running", waited)
        waiting.end()
    for name, pathspec in (
        ("killed", waited),
        ("recorded", recorded),
        ("failed", failed),
        ("resumed", resumed),
    ):
        look(name, pathspec)
    for name, pathspec in ids.items():
        told.answers[name].update(ask(pathspec, "changes", env))
    return told


def found_run(flow: LiveFlow) -> str:
    """The id of a run that is still running."""
    found = RUN_ID.search(flow.output)
    assert found
    return found.group(1)


@contextlib.contextmanager
def no_service(_: Path) -> Iterator[Mapping[str, str]]:
    """The local provider's environment."""
    yield {"METAFLOW_DEFAULT_METADATA": "local"}


def a_service(
    program: tuple[str, ...], extra: Mapping[str, str] | None = None
) -> Callable[[Path], contextlib.AbstractContextManager[Mapping[str, str]]]:
    """A service, and the environment that names it."""

    @contextlib.contextmanager
    def serve(directory: Path) -> Iterator[Mapping[str, str]]:
        service: Service
        with running(program, directory) as service:
            yield {**service.env, **(extra or {})}

    return serve


# As `service run` has it; with Metaflow's own provider, as where only the service's URL is set.
OURS = ("whole", "whole-by-metaflow")
PROVIDERS = {
    "local": no_service,
    OURS[0]: a_service(WHOLE),
    OURS[1]: a_service(WHOLE, {"METAFLOW_SANDBOX_HEARTBEAT": "metaflow"}),
    "upstream": a_service(UPSTREAM),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str], Answered]:
    """What each provider says of plain and of sandboxed runs."""

    cases = [(provider, how) for how in HOW for provider in PROVIDERS]
    cases = [case for case in cases if case[0] != "upstream" or case[1] in UPSTREAM_HOW]
    shared = session_directory(tmp_path_factory, "comparison")

    def one(provider: str, how: str) -> Answered:
        directory, way = shared / f"{provider}-{how}", HOW[how]
        directory.mkdir()
        datastore = bucket() if way.s3 else contextlib.nullcontext({})
        with PROVIDERS[provider](directory) as service, datastore as store:
            return answered(directory, {**service, **store}, way.options, exact=provider in OURS)

    def once(case: tuple[str, str]) -> Answered:
        return made_by_one(shared, "-".join(case), lambda: one(*case))

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(cases, pool.map(once, cases), strict=True))


@pytest.mark.parametrize("question", NAMES)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("provider", OURS)
def test_the_whole_service_agrees(
    said: Mapping[tuple[str, str], Answered], provider: str, how: str, run: str, question: str
) -> None:
    """Guards every answer that the Client gives through the service."""
    assert said[provider, how].answers[run][question] == said["local", how].answers[run][question]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("provider", OURS)
def test_a_run_reads_the_same_from_its_files(
    said: Mapping[tuple[str, str], Answered], provider: str, how: str, run: str
) -> None:
    """Guards the store: the local provider reads the same records in it, times and ids included."""
    by_service, from_files = said[provider, how].exact[run]
    assert by_service == from_files


@pytest.mark.parametrize(
    ("run", "question"),
    [
        pytest.param(
            run,
            question,
            marks=[pytest.mark.xfail(strict=True, raises=AssertionError)]
            if question in UPSTREAM_DIFFERS[run]
            else [],
        )
        for run in RUNS
        for question in NAMES
    ],
)
@pytest.mark.parametrize("how", UPSTREAM_HOW)
def test_upstream_alone(said: Mapping[tuple[str, str], Answered], how: str, run: str, question: str) -> None:
    """Guards the list of what our additions are for, and what reads right without them."""
    assert said["upstream", how].answers[run][question] == said["local", how].answers[run][question]
