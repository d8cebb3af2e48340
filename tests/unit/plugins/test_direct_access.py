"""When a sandbox reaches the datastore itself, and what its step is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from metaflow import metaflow_config

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.errors import UnsupportedOption
from metaflow_extensions.sandbox.plugins import direct_access
from metaflow_extensions.sandbox.plugins.direct_access import DatastoreAccess, is_own, reaching, variables
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor import s3_check
from metaflow_extensions.sandbox.supervisor.s3_access import S3Place

ROOT = "s3://bucket/metaflow"
AWS = S3Place("https://s3.eu-west-1.amazonaws.com", "eu-west-1", False, "", {})
MINIO = S3Place("https://minio.example:9000", "", True, "/authority.pem", {"s3": "path"})
OWN = S3Place("http://127.0.0.1:9000", "", True, "", {})
R2 = S3Place("https://0123.r2.cloudflarestorage.com", "auto", True, "", {})
CLOUD = {Feature.REMOTE, Feature.STDIN, Feature.NETWORK_PUBLIC}
LISTS = {*CLOUD, Feature.EGRESS_LIST}
LOCAL = {Feature.MOUNT, Feature.HOST_PYTHON, Feature.NETWORK_HOST}


class Access:
    """Stands for the bucket, which is somewhere else here."""

    def __init__(self, place: S3Place) -> None:
        self._place = place

    def place(self) -> S3Place:
        return self._place


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[TaskIdentity]:
    """For which tasks the bucket was looked at."""
    done: list[TaskIdentity] = []
    monkeypatch.setattr(s3_check, "check", lambda _access, task: done.append(task))
    monkeypatch.setattr(direct_access, "libraries", lambda: "/libraries")
    return done


def choose(
    features: set[Feature],
    place: S3Place = AWS,
    kind: str = "s3",
    access: str | None = None,
    network: Any = None,
) -> Any:
    datastore = DatastoreAccess("Flow", "12", (kind, ROOT))
    datastore._access = Access(place)  # type: ignore[assignment]
    backend = type("Backend", (), {"features": frozenset(features)})()
    return datastore.choose("train", {"datastore_access": access, "network": network}, backend, "cloud")


@pytest.mark.parametrize(
    ("features", "place", "kind", "access", "network"),
    [
        (LOCAL, AWS, "s3", None, "host"),
        (CLOUD, AWS, "local", None, "public"),
        (CLOUD, AWS, "gs", None, "public"),
        (CLOUD, AWS, "s3", "relay", "public"),
        (CLOUD, AWS, "s3", None, None),
        (CLOUD, AWS, "s3", None, "none"),
        (LISTS, AWS, "s3", None, "none"),
        (LISTS, OWN, "s3", None, "public"),
    ],
)
def test_relay(
    checks: list[TaskIdentity],
    features: set[Feature],
    place: S3Place,
    kind: str,
    access: str | None,
    network: Any,
) -> None:
    """Guards the relay, which needs no credentials inside, wherever direct mode is not asked for."""
    assert choose(features, place, kind, access, network) is None
    assert checks == []


@pytest.mark.parametrize(
    ("features", "access", "network", "given"),
    [
        (CLOUD, None, "public", "public"),
        (LISTS, None, "public", "public"),
        (LISTS, None, None, ("s3.eu-west-1.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com")),
        (LISTS, "direct", None, ("s3.eu-west-1.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com")),
        (
            LISTS,
            None,
            ("packages.example.org",),
            ("packages.example.org", "s3.eu-west-1.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com"),
        ),
        (LOCAL, "direct", "host", "host"),
        (CLOUD, "direct", "public", "public"),
    ],
)
def test_direct(
    checks: list[TaskIdentity], features: set[Feature], access: str | None, network: Any, given: Any
) -> None:
    """Guards the network of a step, which is no wider than was asked for and the bucket needs."""
    found = choose(features, AWS, "s3", access, network)
    assert found.network == given
    assert found.settings.libraries == ("" if Feature.HOST_PYTHON in features else "/libraries")
    assert checks == [TaskIdentity("Flow", "12", "train", "0", 0)]


def test_the_bucket_is_looked_at_once(checks: list[TaskIdentity]) -> None:
    """Guards against a question to the bucket for each step."""
    datastore = DatastoreAccess("Flow", "12", ("s3", ROOT))
    datastore._access = Access(AWS)  # type: ignore[assignment]
    backend = type("Backend", (), {"features": frozenset(LISTS)})()
    for step in ("a", "b", "c"):
        datastore.choose(step, {"datastore_access": None, "network": None}, backend, "cloud")
    assert [task.step for task in checks] == ["a"]


@pytest.mark.parametrize(
    ("features", "kind", "network", "says"),
    [
        (CLOUD, "local", "public", "--datastore s3"),
        (CLOUD, "gs", "public", "pass through the launcher"),
        (CLOUD, "azure", "public", "pass through the launcher"),
        (CLOUD, "s3", "none", "set network='public'"),
        (CLOUD, "s3", None, "set network='public'"),
        (LISTS, "s3", "none", "or leave network= out"),
        (LOCAL, "s3", None, "set network='host'"),
        ({Feature.STDIN}, "s3", None, "choose another backend"),
    ],
)
def test_refused(
    checks: list[TaskIdentity], features: set[Feature], kind: str, network: Any, says: str
) -> None:
    """Guards against a sandbox that could not reach the datastore, and a message without what helps."""
    with pytest.raises(UnsupportedOption) as refused:
        choose(features, AWS, kind, "direct", network)
    assert says in str(refused.value)
    assert checks == []


def test_what_the_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards Metaflow's settings of S3, which are inside what they are outside; no keys are among them."""
    monkeypatch.setattr(metaflow_config, "S3_SERVER_SIDE_ENCRYPTION", "aws:kms")
    monkeypatch.setattr(metaflow_config, "S3_WORKER_COUNT", 32)
    params = {"aws_secret_access_key": "hunter2", "verify": "/here.pem", "use_ssl": False}
    monkeypatch.setenv("METAFLOW_DATATOOLS_CLIENT_PARAMS", json.dumps(params))
    told = variables(MINIO, ROOT)
    assert told["METAFLOW_S3_ENDPOINT_URL"] == "https://minio.example:9000"
    assert told["METAFLOW_DATASTORE_SYSROOT_S3"] == ROOT
    assert told["METAFLOW_S3_SERVER_SIDE_ENCRYPTION"] == "aws:kms"
    assert told["METAFLOW_S3_WORKER_COUNT"] == "32"
    assert told["METAFLOW_DATATOOLS_CLIENT_PARAMS"] == '{"use_ssl": false}'
    assert "AWS_DEFAULT_REGION" not in told
    assert not [name for name in told if "KEY" in name or "TOKEN" in name]
    aws = variables(AWS, ROOT)
    assert "METAFLOW_S3_ENDPOINT_URL" not in aws
    assert aws["AWS_DEFAULT_REGION"] == "eu-west-1"


@pytest.mark.parametrize(("asked", "workers"), [(None, "8"), ("48", "48")])
def test_fewer_workers_for_r2(monkeypatch: pytest.MonkeyPatch, asked: str | None, workers: str) -> None:
    """Guards R2, which answers many requests at once with errors, unless somebody asked for them."""
    monkeypatch.delenv("METAFLOW_S3_WORKER_COUNT", raising=False)
    if asked:
        monkeypatch.setenv("METAFLOW_S3_WORKER_COUNT", asked)
    monkeypatch.setattr(metaflow_config, "S3_WORKER_COUNT", asked or 64)
    assert variables(R2, ROOT)["METAFLOW_S3_WORKER_COUNT"] == workers


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), ("s3.example", False)],
)
def test_hosts(host: str, own: bool) -> None:
    """Guards against a sandbox elsewhere that is sent to its own loopback."""
    assert is_own(host) is own


def test_addresses_have_no_buckets_before_them() -> None:
    """Guards lists of hosts against names that cannot be."""
    assert reaching(("a.example",), OWN, ROOT) == ("a.example", "127.0.0.1")
