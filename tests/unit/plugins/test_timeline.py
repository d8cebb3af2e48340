"""The timeline card's numbers and pages, from metadata of our own making."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import metaflow  # noqa: F401 -- loads what is below plugins/cards as it does in every flow
import pytest

from metaflow_extensions.sandbox.plugins.cards.timeline import charts, stories
from metaflow_extensions.sandbox.plugins.cards.timeline.page import page
from metaflow_extensions.sandbox.plugins.cards.timeline.stories import Attempt, RunStory, TaskStory
from metaflow_extensions.sandbox.plugins.samples import Sample

STARTUP = {"queue": 2.0, "open": 0.5, "boot": 0.5}
WHOLE = {**STARTUP, "run": 4.0, "close": 1.0}


def entry(name: str, value: Any, seconds: float) -> SimpleNamespace:
    """One field of a task's metadata, as Metaflow's client has it."""
    return SimpleNamespace(name=name, value=json.dumps(value), created_at=seconds * 1000)


def test_a_closed_sandbox_is_placed_by_its_end() -> None:
    """The record holds durations alone: a bar is where they are counted back to."""
    (attempt,) = stories.attempts_of("a", [entry(stories.ENDED, WHOLE, 1008)], now=2000)
    assert (attempt.begin, attempt.end) == (1000, 1008)
    assert dict(attempt.phases) == WHOLE


def test_a_running_sandbox_ends_now() -> None:
    """The card of a task is made before its sandbox is closed."""
    (attempt,) = stories.attempts_of("a", [entry(stories.BEGUN, STARTUP, 1003)], now=1010)
    assert (attempt.begin, attempt.phases["run"]) == (1000, 7)
    assert "close" not in attempt.phases


def test_every_attempt_has_a_bar() -> None:
    """A retried task waits twice, and the second wait is what its reader looks for."""
    entries = [
        entry(stories.BEGUN, STARTUP, 1003),
        entry(stories.ENDED, WHOLE, 1008),
        entry(stories.BEGUN, STARTUP, 1020),
    ]
    first, second = stories.attempts_of("a", reversed(entries), now=1030)
    assert (first.number, first.begin, second.number, second.begin) == (0, 1000, 1, 1017)


def test_cores_are_what_was_used_between_samples() -> None:
    """CPU time grows for ever: a chart of it says nothing of when it was used."""
    samples = [Sample(10, 1.0, 5), Sample(11, 3.0, 6), Sample(11, 3.0, 6), Sample(13, 2.0, 7)]
    assert charts.cores(samples) == [(1, 2.0), (3, 0.0)]
    assert charts.cores([]) == []
    assert charts.memory(samples)[-1] == (3, 7)


@pytest.mark.parametrize(("most", "every"), [(1, 0.5), (0.9, 0.5), (100, 50), (7, 2), (0, 5e-7)])
def test_marks_are_round(most: float, every: float) -> None:
    """Marks at 0.2731 can't be read."""
    assert charts.nice(most) == pytest.approx(every)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12 ms"), (1.234, "1.23 s"), (119, "119 s"), (150, "2 min 30 s")]
)
def test_durations_can_be_read(seconds: float, text: str) -> None:
    """A step of an hour in milliseconds is a number to be counted."""
    assert charts.seconds(seconds) == text


def drawn(html: str) -> list[ElementTree.Element]:
    """Every picture of a page, parsed: a browser passes over what is not well-formed in silence."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def whole_page(name: str = "work/1", most: int = 2) -> str:
    """A card with everything on it."""
    attempts = [Attempt(name, 0, 1000.0 + number, WHOLE) for number in range(most)]
    samples = [Sample(1000 + number, number, 100 + number) for number in range(9)]
    task = TaskStory(
        "F/1/end/2", {"backend": name, "isolation": "vm"}, attempts[0], samples, {"Python": name}
    )
    return page(task, RunStory(attempts, {name: 3}))


def test_waiting_is_seen() -> None:
    """A run's slowness is mostly waiting: it has bars of its own, as long as the wait."""
    pictures = drawn(whole_page())
    widths = [
        {rect.attrib["class"]: float(rect.attrib["width"]) for rect in picture.iter("rect")}
        for picture in pictures
    ]
    gantt = widths[-1]
    assert set(gantt) == set(stories.PHASES)
    assert gantt["queue"] == pytest.approx(gantt["run"] / 2, abs=0.2)
    assert len(list(pictures[-1].iter("rect"))) == 2 * len(stories.PHASES)


def test_nothing_is_fetched_or_run() -> None:
    """A card is opened in a browser that is logged in elsewhere, and kept where there is no network."""
    html = whole_page()
    assert not re.search(r"<script|<link|<img|<iframe|https?:|url\(|@import|\bon\w+=", html)


def test_names_are_no_markup() -> None:
    """A step's metadata and environment are its own words."""
    html = whole_page("<script>alert(1)</script>\"'>")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 3
    assert drawn(html)


def test_a_task_outside_says_so() -> None:
    """The card may be put on every step by --with, and not every step is sandboxed."""
    html = page(TaskStory("F/1/a/1", {}, None), RunStory([], {}))
    assert "has not been in a sandbox" in html
    assert "There were none" in html


def test_many_sandboxes_stay_one_row_each() -> None:
    """A foreach of hundreds is where the picture is needed."""
    picture = drawn(whole_page(most=300))[-1]
    rows = {rect.attrib["y"] for rect in picture.iter("rect")}
    assert len(rows) == 300
    assert float(picture.attrib["viewBox"].split()[3]) > 300 * charts.ROW
