"""The timeline card of a real run: its phases, its samples, all sandboxes with their waits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .harness import FlowRun, place_flow, run_flow


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every card of one run, by STEP/TASK; a retried task's latest."""
    directory = tmp_path_factory.mktemp("cards")
    (directory / ".metaflow").mkdir()
    flow = place_flow("timeline_flow.py", directory)
    done: FlowRun = run_flow(flow, "run", env={"METAFLOW_SANDBOX_MAX_SANDBOXES": "3"})
    root = Path(directory, ".metaflow", "mf.cards", "TimelineFlow", "runs", done.run_id, "steps")
    found = sorted(root.glob("*/tasks/*/cards/*.html"), key=lambda path: path.stat().st_mtime)
    return {f"{path.parts[-5]}/{path.parts[-3]}": path.read_text() for path in found}


def bars(html: str) -> dict[str, set[str]]:
    """The phases drawn of each task, by the words that a pointer shows."""
    drawn: dict[str, set[str]] = {}
    for name, phase in re.findall(r"<title>([^<,]+), (\w+): [^<]+</title>", html):
        drawn.setdefault(name, set()).add(phase)
    return drawn


def test_task_tells_its_phases_and_use(cards: dict[str, str]) -> None:
    """A card that is made before the sandbox closes has to have its phases from the start."""
    works = [html for name, html in cards.items() if name.startswith("work/")]
    assert len(works) == 6
    for html in works:
        assert {"open", "boot", "run"} <= bars(html)["this task"]
        assert "CPU over time" in html and "Memory over time" in html
        assert "isolation container, network none" in html
        assert "METAFLOW_SANDBOX_GUEST" in html  # a variable's name, and no value
        assert "All sandboxes" not in html


def test_memory_is_that_of_the_step(cards: dict[str, str]) -> None:
    """Each turn of a step holds 24 MiB more; a chart of something else does not grow with it."""
    peaks = sorted(
        float(found[1])
        for name, html in cards.items()
        if name.startswith("work/") and (found := re.search(r"<b>(\d+) MiB</b>peak memory", html))
    )
    assert len(peaks) == 6
    assert peaks[-1] - peaks[0] > 3 * 24


def test_end_shows_every_sandbox_and_its_wait(cards: dict[str, str]) -> None:
    """Six tasks and three places: three waited, and the task that failed once has two bars."""
    (end,) = (html for name, html in cards.items() if name.startswith("end/"))
    drawn = bars(end)
    assert {name.partition("/")[0] for name in drawn if "/" in name} == {"work", "join", "end"}
    assert "· attempt 1" in end
    assert re.search(r"<b>9</b>sandboxes", end)
    waits = re.findall(r"<title>work/\d+, queue: ([\d.]+ s|\d+ min)", end)
    assert len(waits) >= 3
