"""Direct mode when something is wrong: one message before any sandbox, and what a step left is not lost."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from . import outside
from .both_ways import SANDBOXED
from .bucket import BUCKET
from .harness import FlowRun, place_flow, read_results, run_flow
from .live import all_processes, live_flow
from .recorder import end_while_away, recording
from .s3 import KEYS, Bucket, bucket

OUTSIDE = {**outside.settings(), "METAFLOW_SANDBOX_NETWORK": "public"}
DIRECT = {"METAFLOW_SANDBOX_DATASTORE_ACCESS": "direct", **OUTSIDE}


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    """A bucket."""
    with bucket() as made:
        yield made


@contextlib.contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """The URL of a server that answers everything with one of S3's errors."""
    content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told so</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/xml")
            self.send_header("x-amz-bucket-region", "eu-west-1")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = _refuse  # noqa: N815 -- named by the base class

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def refused(directory: Path, env: Mapping[str, str], *words: str) -> FlowRun:
    """A run that says one thing and makes no sandbox."""
    flow = place_flow("small_flow.py", directory)
    run = run_flow(flow, "run", *SANDBOXED, env=env, check=False)
    assert run.returncode == 1, run.output
    assert "Task is starting" not in run.output
    assert "Traceback" not in run.output
    for word in words:
        assert word in run.output
    return run


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (403, "AccessDenied", "s3:ListBucket"),
        (400, "ExpiredToken", "aws sso login"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (403, "InvalidAccessKeyId", "a wrong key"),
        (403, "SignatureDoesNotMatch", "the secret key"),
        (301, "PermanentRedirect", "AWS_DEFAULT_REGION"),
        (503, "SomethingElse", "refused to list"),
    ],
)
def test_what_the_bucket_says(tmp_path: Path, s3: Bucket, status: int, code: str, says: str) -> None:
    """Guards against a sandbox that is made for a datastore that cannot be used, and against a traceback."""
    keys = {"AWS_ACCESS_KEY_ID": "hidden-key", "AWS_SECRET_ACCESS_KEY": "hidden-secret"}
    with answering(status, code) as url:
        env = {**s3.settings, **DIRECT, **keys, "METAFLOW_S3_ENDPOINT_URL": url}
        run = refused(tmp_path, env, says, f"s3://{BUCKET}/metaflow cannot be used")
    assert "hidden-secret" not in run.output


def test_a_missing_bucket(tmp_path: Path, s3: Bucket) -> None:
    """Guards the most common mistake: a name in the settings that no bucket has."""
    env = {**s3.settings, **DIRECT, "METAFLOW_DATASTORE_SYSROOT_S3": "s3://no-such-bucket/metaflow"}
    refused(tmp_path, env, "there is no bucket 'no-such-bucket'", "METAFLOW_DATASTORE_SYSROOT_S3")


def test_a_wrong_endpoint(tmp_path: Path, s3: Bucket) -> None:
    """Guards against minutes of silence before a port where nobody listens."""
    env = {**s3.settings, **DIRECT, "METAFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    refused(tmp_path, env, "nothing that speaks S3 answers at http://127.0.0.1:9", "METAFLOW_S3_ENDPOINT_URL")


def test_no_credentials(tmp_path: Path, s3: Bucket) -> None:
    """Guards a launcher that has none, in an environment, a profile or a role."""
    env = {name: value for name, value in s3.settings.items() if name not in KEYS}
    env["HOME"] = str(tmp_path)
    refused(tmp_path, {**env, **DIRECT}, "there are no credentials for it", "AWS_PROFILE")


def test_keys_of_a_profile_are_enough(tmp_path: Path, s3: Bucket) -> None:
    """Guards resolved credentials: those of a profile reach the step, the profile's file does not."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    lines = [f"{name.lower()} = {s3.settings[name]}" for name in KEYS]
    (home / ".aws" / "credentials").write_text("\n".join(["[mine]", *lines, "[other]", "x = 1", ""]))
    env = {name: value for name, value in s3.settings.items() if name not in KEYS}
    flow = place_flow("small_flow.py", tmp_path / "flow")
    run = run_flow(flow, "run", *SANDBOXED, env={**env, **DIRECT, "HOME": str(home), "AWS_PROFILE": "mine"})
    assert run.output.count("Task finished successfully") == 3


def test_a_local_datastore(tmp_path: Path) -> None:
    """Guards against a sandbox that looks for the launcher's directory."""
    refused(tmp_path, DIRECT, "this flow's is 'local'", "--datastore s3")


@pytest.mark.parametrize("network", ["none", None])
def test_without_a_network(tmp_path: Path, s3: Bucket, network: str | None) -> None:
    """Guards against a step that waits for a bucket that it cannot reach."""
    env = {
        **s3.settings,
        "METAFLOW_SANDBOX_DATASTORE_ACCESS": "direct",
        "METAFLOW_SANDBOX_BACKEND": "bubblewrap",
    }
    refused(
        tmp_path,
        env if network is None else {**env, "METAFLOW_SANDBOX_NETWORK": network},
        "could not reach S3",
        "network='host'",
    )


def test_a_step_that_is_killed_is_told_of(tmp_path: Path, s3: Bucket) -> None:
    """Guards partial metadata: what a step said before it was killed is there, and it is not done."""
    env = {**s3.settings, **DIRECT}
    flow = place_flow("direct_killed_flow.py", tmp_path)
    run = run_flow(flow, "run", env=env, check=False)
    assert run.returncode == 1
    script = f"""
import json
from metaflow import Run, namespace
namespace(None)
task = Run("DirectKilledFlow/{run.run_id}")["start"].task
print(json.dumps([task.successful, task.finished, sorted(task.metadata_dict)]))
"""
    successful, finished, fields = json.loads(read_results(tmp_path, script, env))
    assert (successful, finished) == (False, False)
    assert {"attempt", "said-before", "sandbox-id", "sandbox-timings"} <= set(fields)
    names = {name.rpartition("/")[2] for name in s3.names(f"DirectKilledFlow/{run.run_id}/start/")}
    assert "0.attempt.json" in names
    assert "0.DONE.lock" not in names


def test_keys_stand_nowhere(s3: Bucket) -> None:
    """Guards the datastore's keys: not on a command line, in a step's environment, a log or an open file."""
    secret = "a-secret-that-nobody-may-read"
    with live_flow(
        "waiting_flow.py", "run", *SANDBOXED, env={**s3.settings, **DIRECT, "AWS_SECRET_ACCESS_KEY": secret}
    ) as flow:
        flow.wait_for("ready")
        for process in all_processes():
            assert not any(secret in word for word in process.argv), process
        step = flow.the("step")
        assert secret.encode() not in Path(f"/proc/{step.pid}/environ").read_bytes()
        holding = [
            path for path in flow.tmp.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
        ]
        # The launcher's copy and the sandbox's own.
        assert {path.name for path in holding} == {"s3.json", "task.tar"}
        for path in holding:
            private = [each for each in path.parents if each.stat().st_mode & 0o077 == 0]
            assert flow.tmp in private[0].parents, path
        flow.kill("shim", signal.SIGUSR1)
        done = flow.finish()
        assert done.returncode == 0, done.output
        assert secret not in done.output
        assert not list(flow.tmp.rglob("s3.json"))


def test_a_bucket_that_goes_away_for_a_while(s3: Bucket) -> None:
    """Guards a step's results over a bucket that does not answer for some seconds."""
    with recording(s3.endpoint) as between:
        env = {**s3.settings, **DIRECT, "METAFLOW_S3_ENDPOINT_URL": between.url}
        with live_flow("waiting_flow.py", "run", *SANDBOXED, env=env) as flow:
            done = end_while_away(flow, between, 3)
    assert done.returncode == 0, done.output
    assert done.output.count("Task finished successfully") == 2


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory, s3: Bucket) -> tuple[FlowRun, Path, Mapping[str, str]]:
    """A run in which a step writes to the bucket what it should not; (run, canary, environment)."""
    directory = tmp_path_factory.mktemp("hostile")
    env = {**s3.settings, **DIRECT}
    flow = place_flow("direct_hostile_flow.py", directory / "flow")
    canary = directory / "canary"
    return run_flow(flow, "run", "--canary", str(canary), env=env, check=False), canary, env


def test_a_hostile_step_is_not_believed(struck: tuple[FlowRun, Path, Mapping[str, str]], s3: Bucket) -> None:
    """Guards the scheduler against artifacts that a step wrote to the bucket itself."""
    run, canary, _ = struck
    assert run.returncode == 1
    # Whichever of them is looked at first.
    assert re.search(r"artifact '_(transition|task_ok|success|foreach_stack)' refused", run.output)
    assert "ended without saving its results" in run.output
    assert not list(canary.parent.glob("canary*"))


def test_a_hostile_steps_records_are_its_own(struck: tuple[FlowRun, Path, Mapping[str, str]]) -> None:
    """Guards other tasks and the run against records that a step made up, and against links."""
    run, _, env = struck
    script = f"""
import json
from metaflow import Run, namespace
namespace(None)
run = Run("DirectHostileFlow/{run.run_id}")
print(json.dumps([[sorted(task.metadata_dict) for task in run[step]] for step in ("start", "strike")]))
"""
    (start,), (strike,) = json.loads(read_results(run.directory, script, env))
    assert "made-up" not in start
    assert "made-up" in strike
    assert "sandbox-id" in strike
    assert "not this task's" in run.output


def test_a_resume_runs_nothing_of_it(struck: tuple[FlowRun, Path, Mapping[str, str]]) -> None:
    """Guards a resume, which reads every task of the failed run that counts as done."""
    run, canary, env = struck
    again = run_flow(run.directory / "direct_hostile_flow.py", "resume", env=env, check=False)
    assert again.returncode == 1
    assert "does not have the required metadata to load artifacts" in again.output
    assert not list(canary.parent.glob("canary*"))
