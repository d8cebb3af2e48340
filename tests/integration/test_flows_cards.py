"""Cards of sandboxed steps: rendered inside, kept outside, refreshed while the step runs."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .both_ways import SANDBOXED
from .harness import FlowRun, read_results, run_flow
from .live import LiveFlow, live_flow

DESCRIBE = Path(__file__).with_name("describe_cards.py").read_text()
RUN = f"{DESCRIBE}\nimport sys\nprint(json.dumps(describe_cards(PATHSPEC)))"
RUNNING = f"""{DESCRIBE}
from metaflow import Step
namespace(None)
step = Step(f"{{PATHSPEC}}/running")
print(json.dumps([step.task.finished, cards_of(step.task, PATHSPEC)]))
"""


@dataclass(frozen=True)
class CardRun:
    """Cards of one run: ``turns`` are the progress that was seen while the step ran."""

    process: FlowRun
    cards: Mapping[str, Any]
    turns: tuple[int, ...]
    listing: str


def ask(flow: LiveFlow, script: str) -> Any:
    """Run a script about the run where the flow runs."""
    run_id = FlowRun(0, flow.output, flow.directory).run_id
    return json.loads(read_results(flow.directory, f"PATHSPEC = 'CardsFlow/{run_id}'\n{script}"))


def progress(flow: LiveFlow, least: int) -> int:
    """The progress that the running step's card shows, once it is at least that."""
    shown = 0

    def look() -> bool:
        nonlocal shown
        finished, cards = ask(flow, RUNNING)
        assert not finished
        for card in cards:
            for update in ((card["data"] or {}).get("data") or {}).values():
                shown = max(shown, update["value"])
        return shown >= least

    flow.until(look, f"a card that shows a progress of {least}")
    return shown


def run_with_cards(role: str, *options: str) -> CardRun:
    """Run CardsFlow, look twice at the card of its running step, and let it end."""
    with live_flow("cards_flow.py", "run", *options) as flow:
        flow.wait_for("ready")
        first = progress(flow, 1)
        second = progress(flow, first + 1)
        flow.kill(role, signal.SIGUSR1)
        process = flow.finish()
        assert process.returncode == 0, process.output
        script = flow.directory / "cards_flow.py"
        listing = run_flow(script, "card", "list", f"{process.run_id}/named").output
        return CardRun(process, ask(flow, RUN), (first, second), listing)


@pytest.fixture(scope="module")
def runs() -> tuple[CardRun, CardRun]:
    """CardsFlow run plainly and sandboxed."""
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(run_with_cards, "step")
        sandboxed = pool.submit(run_with_cards, "shim", *SANDBOXED)
        return plain.result(), sandboxed.result()


def without_progress(cards: Mapping[str, Any]) -> str:
    """The cards without how far the running step came, which is a matter of time."""
    return json.dumps(
        {**cards, "running": [(card["type"], card["id"]) for card in cards["running"]]}, indent=1
    )


def test_cards_are_the_same(runs: tuple[CardRun, CardRun]) -> None:
    """Guards the content of every card, also of the one that says why it could not be rendered."""
    plain, sandboxed = runs
    assert without_progress(sandboxed.cards) == without_progress(plain.cards)


def test_every_step_has_its_cards(runs: tuple[CardRun, CardRun]) -> None:
    """Guards ids, types and components: a card lost both ways would not be a difference."""
    cards = runs[1].cards
    names = {step: sorted((card["type"], card["id"]) for card in found) for step, found in cards.items()}
    assert names == {
        "start": [("default", None)],
        "named": [("blank", "second"), ("default", "first")],
        "running": [("blank", None)],
        "end": [("no_such_card", None)],
    }
    assert "A heading of the first" in json.dumps(cards["named"])
    assert "MetaflowCard named no_such_card not found" in json.dumps(cards["end"])
    assert "turns of the running step" in json.dumps(cards["running"])


def test_card_is_refreshed_while_its_step_runs(runs: tuple[CardRun, CardRun]) -> None:
    """Guards the refresh: updates leave the sandbox before the step is over."""
    for first, second in (run.turns for run in runs):
        assert 0 < first < second


def test_cards_are_listed_from_the_command_line(runs: tuple[CardRun, CardRun]) -> None:
    """Guards `flow.py card list`, which looks for cards where Metaflow keeps them."""
    plain, sandboxed = (run.listing for run in runs)
    assert "Found 2 card" in sandboxed
    assert plain.count("Card ID") == sandboxed.count("Card ID")
