"""A flow whose steps are services of MetalBox."""

from __future__ import annotations

import pytest

from . import metalbox
from .both_ways import BothWays
from .tour import check_cards, check_tour, run_tour

CHOSEN = {"METAFLOW_SANDBOX_BACKEND": "metalbox", "METAFLOW_SANDBOX_NETWORK": "none"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """TourFlow, both ways."""
    directory = tmp_path_factory.mktemp("metalbox")
    return run_tour(directory, {**CHOSEN, **metalbox.settings(directory)})


def test_nothing_is_lost_on_the_way(both: BothWays) -> None:
    """Guards code, configuration, artifacts, output and metadata through a service's pipes."""
    check_tour(both)


def test_cards_pass(both: BothWays) -> None:
    """Guards cards, which another process inside makes."""
    check_cards(both, CHOSEN)
