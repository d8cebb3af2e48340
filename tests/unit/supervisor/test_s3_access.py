"""Credentials that a task is given, from moto's STS and a stand-in for R2's API."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from metaflow import metaflow_config
from metaflow.plugins.datatools.s3 import s3util
from moto.server import ThreadedMotoServer

from metaflow_extensions.sandbox.errors import BackendUnavailable
from metaflow_extensions.sandbox.guest.credentials import seconds_left
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor.s3_access import S3Access, TaskCredentials, usable
from metaflow_extensions.sandbox.supervisor.s3_errors import explain

TASK = TaskIdentity("Flow", "12", "train", "7", 1)
ROLE = "arn:aws:iam::123456789012:role/datastore"
R2 = "https://0123abcd.eu.r2.cloudflarestorage.com"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """moto's services."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(autouse=True)
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A launcher with keys in its environment, and nothing else."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "launcher")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    settings = {"S3_ROLE_ARN": "", "S3_STS_ENDPOINT": "", "S3_ROLE_DURATION": "3600"}
    for name, value in {**settings, "S3_SESSION_TOKEN": "", "R2_API_TOKEN": "", "R2_API_URL": ""}.items():
        monkeypatch.setattr(metaflow_config, f"SANDBOX_{name}", value, raising=False)


def at(monkeypatch: pytest.MonkeyPatch, endpoint: str | None) -> S3Access:
    """The datastore at an endpoint, AWS's own for None."""
    params = {"endpoint_url": endpoint} if endpoint else {}
    monkeypatch.setattr(s3util, "DATATOOLS_CLIENT_PARAMS", params)
    monkeypatch.setattr(metaflow_config, "DATATOOLS_CLIENT_PARAMS", params)
    return S3Access("s3://bucket/metaflow")


def configure(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setattr(metaflow_config, f"SANDBOX_{name}", value)


def test_the_launchers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards what a task gets where no role is configured: the keys, and no field more."""
    access = at(monkeypatch, None)
    assert access.of_task(TASK) == {"AccessKeyId": "launcher", "SecretAccessKey": "hunter2"}
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    assert at(monkeypatch, None).of_task(TASK)["SessionToken"] == "t"


def test_a_profile_that_runs_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards resolved credentials, such as those of SSO and roles, with their end: they are renewed."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    told = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": end}
    (tmp_path / "told.json").write_text(json.dumps(told))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(f"[profile p]\ncredential_process = cat {tmp_path}/told.json\n")
    monkeypatch.setenv("AWS_PROFILE", "p")
    told.pop("Version")
    assert at(monkeypatch, None).of_task(TASK) == told


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against botocore's own words, which do not say what to do."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    access = at(monkeypatch, None)
    with pytest.raises(BackendUnavailable, match="AWS_PROFILE"):
        usable(access, access.resolved)


def test_a_session_of_the_task(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """Guards a role: other keys than the launcher's, that end, and one session as long as it is fresh."""
    configure(monkeypatch, S3_ROLE_ARN=ROLE, S3_STS_ENDPOINT=server)
    kept = TaskCredentials(at(monkeypatch, server))
    given = kept.of(TASK)
    assert given["AccessKeyId"] != "launcher"
    assert given["SessionToken"]
    assert 3000 < seconds_left(given) <= 3600
    assert kept.of(TASK) == given
    configure(monkeypatch, S3_ROLE_DURATION="900")
    short = TaskCredentials(at(monkeypatch, server))
    # A quarter of an hour is soon over.
    assert short.of(TASK) != short.of(TASK)


@pytest.mark.parametrize("value", ["", "10", "abc", "43201", "-900"])
def test_durations_that_sts_refuses(monkeypatch: pytest.MonkeyPatch, server: str, value: str) -> None:
    """Guards against STS's own message, which does not name the setting."""
    configure(monkeypatch, S3_ROLE_ARN=ROLE, S3_STS_ENDPOINT=server, S3_ROLE_DURATION=value)
    with pytest.raises(BackendUnavailable, match="METAFLOW_SANDBOX_S3_ROLE_DURATION"):
        at(monkeypatch, server).of_task(TASK)


def test_a_role_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the launcher's own keys being handed out where the role's were asked for."""
    configure(monkeypatch, S3_ROLE_ARN=ROLE, S3_STS_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(BackendUnavailable, match="METAFLOW_SANDBOX_S3_ROLE_ARN cannot be taken on"):
        at(monkeypatch, None).of_task(TASK)


@contextlib.contextmanager
def cloudflare(status: int = 200) -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """(URL, requests) of a stand-in for the one route of Cloudflare's API."""
    asked: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            keys = {"accessKeyId": "temporary", "secretAccessKey": "s", "sessionToken": "t"}
            content = json.dumps({"success": True, "errors": [], "messages": [], "result": keys}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()
        thread.join()


def test_temporary_credentials_of_r2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards R2: its API is asked for the flow's prefixes of one bucket, with its own token."""
    monkeypatch.setattr("metaflow_extensions.sandbox.supervisor.s3_access.CARD_S3ROOT", "s3://bucket/cards")
    monkeypatch.setattr("metaflow_extensions.sandbox.supervisor.s3_access.DATATOOLS_S3ROOT", "s3://else/data")
    with cloudflare() as (url, asked):
        configure(monkeypatch, R2_API_TOKEN="token", R2_API_URL=url)
        given = at(monkeypatch, R2).of_task(TASK)
    ((path, authorization, body),) = asked
    assert path == "/accounts/0123abcd/r2/temp-access-credentials"
    assert authorization == "Bearer token"
    assert body["parentAccessKeyId"] == "launcher"
    assert body["prefixes"] == ["metaflow/Flow/", "cards/Flow/"]
    assert (given["AccessKeyId"], given["SessionToken"]) == ("temporary", "t")
    assert 3000 < seconds_left(given) <= 3600


def test_r2_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the account's own keys being handed out instead."""
    with cloudflare(403) as (url, _):
        configure(monkeypatch, R2_API_TOKEN="token", R2_API_URL=url)
        with pytest.raises(BackendUnavailable, match="METAFLOW_SANDBOX_R2_API_TOKEN"):
            at(monkeypatch, R2).of_task(TASK)


def test_no_session_token_for_r2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a session token of AWS's that R2 would refuse every request for."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    assert "SessionToken" not in at(monkeypatch, R2).of_task(TASK)
    configure(monkeypatch, S3_SESSION_TOKEN="keep")
    assert at(monkeypatch, R2).of_task(TASK)["SessionToken"] == "t"


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards what is carried over: endpoint, region, how buckets are addressed, and checksums."""
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-west-1\nrequest_checksum_calculation = when_required\n"
        "s3 =\n    addressing_style = path\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    place = at(monkeypatch, None).place()
    assert (place.region, place.custom, place.is_r2, place.certificates) == ("eu-west-1", False, False, "")
    assert place.options == {
        "request_checksum_calculation": "when_required",
        "s3": "\n    addressing_style = path",
    }
    other = at(monkeypatch, "https://minio.example:9000").place()
    assert (other.host, other.custom) == ("minio.example", True)
    assert at(monkeypatch, R2).place().is_r2


def test_own_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a bucket whose certificate only a file of the launcher's vouches for."""
    authorities = certifi_file()
    monkeypatch.setenv("AWS_CA_BUNDLE", authorities)
    assert at(monkeypatch, "https://minio.example").place().certificates == authorities


def certifi_file() -> str:
    import botocore

    return str(Path(botocore.__file__).with_name("cacert.pem"))


@pytest.mark.parametrize(
    "name", ["SSOTokenLoadError", "SSLError", "ResponseParserError", "ParamValidationError"]
)
def test_errors_that_come_from_no_answer(name: str) -> None:
    """Guards against a message without what mends it."""
    error = type(name, (Exception,), {})("words of botocore")
    said = explain(error, "s3://bucket/metaflow", "http://here", "the launcher's credentials")
    assert "words of botocore" in said
    assert any(word in said for word in ("aws sso login", "METAFLOW_S3_", "METAFLOW_DATASTORE_SYSROOT_S3"))
