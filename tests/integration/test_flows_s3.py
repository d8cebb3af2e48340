"""Sandboxed flows over S3: only the launcher has boto3, credentials and a way to the bucket."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from .both_ways import BothWays
from .tour import check_cards, check_tour, run_tour

BUCKET = "sandbox-tests"


@pytest.fixture(scope="module")
def s3() -> Iterator[Mapping[str, str]]:
    """The environment of a launcher whose datastore is a bucket of a server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3 = importlib.import_module("boto3")
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=BUCKET)
    yield {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{BUCKET}/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory, s3: Mapping[str, str]) -> BothWays:
    """TourFlow over S3, both ways."""
    return run_tour(tmp_path_factory.mktemp("s3"), s3)


def test_results_over_s3_are_the_same(tour: BothWays) -> None:
    """Guards the relay before a remote datastore: artifacts, files, logs, retries, the Client inside."""
    check_tour(tour)
    assert tour.sandboxed.task("end")["metadata"]["ds-type"] == "s3"


def test_cards_over_s3_are_the_same(tour: BothWays, s3: Mapping[str, str]) -> None:
    """Guards cards, which have a prefix of their own in the bucket."""
    check_cards(tour, s3)


def test_nothing_is_written_beside_the_bucket(tour: BothWays, s3: Mapping[str, str]) -> None:
    """Guards the datastore's place: no artifact of a sandboxed step is left on the launcher's disk."""
    local = Path(tour.sandboxed.process.directory, ".metaflow", "TourFlow")
    assert not (local / "data").exists()
