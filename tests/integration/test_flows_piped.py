"""A flow whose sandboxes share nothing with the launcher but stdin and stdout."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from .both_ways import BothWays
from .tour import check_cards, check_tour, run_tour

# Plain processes, to which everything has to be sent: the backend declares no mounts.
PIPED: Mapping[str, str] = {
    "METAFLOW_SANDBOX_BACKEND": "metaflow_extensions.sandbox.testing.scripted:ScriptedBackend",
    "METAFLOW_SANDBOX_NETWORK": "host",
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """TourFlow, both ways."""
    return run_tour(tmp_path_factory.mktemp("piped"), PIPED)


def test_nothing_is_lost_on_the_way(both: BothWays) -> None:
    """Guards code, configuration, artifacts, output and metadata over the stdio transport."""
    check_tour(both)


def test_cards_pass(both: BothWays) -> None:
    """Guards cards, which another process inside makes, on a channel of its own."""
    check_cards(both, PIPED)
