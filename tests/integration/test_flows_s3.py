"""Sandboxed flows over S3: only the launcher has boto3, credentials and a way to the bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .both_ways import BothWays
from .bucket import bucket
from .tour import check_cards, check_tour, run_tour


@pytest.fixture(scope="module")
def s3() -> Iterator[Mapping[str, str]]:
    """The environment of a launcher whose datastore is a bucket."""
    with bucket() as env:
        yield env


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
