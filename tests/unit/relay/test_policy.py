"""Which paths a task may read, list and write."""

from __future__ import annotations

import random

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.policy import Kind, Policy, TaskIdentity, split

from .parts import IDENTITY

POLICY = Policy(IDENTITY, frozenset({"12/start/3", "11/start/3"}))
SHA = "0123456789abcdef0123456789abcdef01234567"
BLOB = f"Flow/data/01/{SHA}"
CARD = "Flow/runs/12/steps/train/tasks/7/cards/default-1.html"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (BLOB, Kind.BLOB),
        ("Flow/12/train/7/1.data.json", Kind.OWN),
        ("Flow/12/train/7/0.data.json", Kind.OWN),
        ("Flow/12/train/7/1.runtime_stdout.log", Kind.OWN),
        ("Flow/12/start/3/0.data.json", Kind.INPUT),
        ("Flow/11/start/3/0.data.json", Kind.INPUT),
        ("Flow/12/_parameters/1/0.data.json", Kind.INPUT),
        (CARD, Kind.CARD),
    ],
)
def test_readable(path: str, kind: Kind) -> None:
    """Guards against refusing what every task needs: its inputs, its parameters, its blobs, its own."""
    assert POLICY.reading(path) is kind


OTHERS = [
    "Flow/12/start/4/0.data.json",
    "Flow/12/train/8/1.data.json",
    "Flow/12/end/7/1.data.json",
    "Flow/13/start/3/0.data.json",
    "Flow/13/_parameters/1/0.data.json",
    "Other/12/train/7/1.data.json",
    f"Other/data/01/{SHA}",
    "flow/12/train/7/1.data.json",
    "Flow/12/train/7",
    "Flow/12/train",
    "Flow",
    "Flow/12/train/7/1.data.json/more",
    "Flow/12/train/07/1.data.json",
    "Flow/012/train/7/1.data.json",
    "Flow/data/01",
    f"Flow/data/02/{SHA}",
    f"Flow/data/01/{SHA.upper()}",
    f"Flow/data/01/{SHA}0",
    f"Flow/data/01/{SHA[:-1]}",
    f"Flow/data/01/{SHA}_meta",
    f"Flow/data/01/x/{SHA}",
    "Flow/runs/12/steps/train/tasks/8/cards/x.html",
    "Flow/runs/13/steps/train/tasks/7/cards/x.html",
    "Flow/runs/12/steps/end/tasks/7/cards/x.html",
    "Flow/runs/12/steps/train/tasks/7/x.html",
    "Flow/runs/12/steps/train/tasks/7/cards/deeper/x.html",
    "Flow/runs/12/steps/train/cards/x.html",
    # Look-alikes: Cyrillic, full width, a superscript digit, a combining mark, Arabic digits.
    "Fl\u043ew/12/train/7/1.data.json",
    "Flow/\uff11\uff12/train/7/1.data.json",
    "Flow/12/train/\u2077/1.data.json",
    "Flow/12/tra\u0131n/7/1.data.json",
    "Flow/12/train/\u0667/1.data.json",
    "Flow/12\u0301/train/7/1.data.json",
]


@pytest.mark.parametrize("path", OTHERS)
def test_others(path: str) -> None:
    """Guards against reaching another flow, run, step, task or a name that only looks like one's own."""
    for act in (POLICY.reading, POLICY.writing):
        with pytest.raises(RelayError):
            act(path)


TRICKS = [
    "",
    "/",
    "/etc/passwd",
    "//Flow/12/train/7/1.data.json",
    "/Flow/12/train/7/1.data.json",
    "Flow/12/train/7/1.data.json/",
    "Flow//12/train/7/1.data.json",
    "Flow/12/train/7/../7/1.data.json",
    "Flow/12/train/7/..",
    "Flow/12/train/7/.",
    "./Flow/12/train/7/1.data.json",
    "../Flow/12/train/7/1.data.json",
    "Flow/12/train/7/1.data.json\0",
    "Flow/12/train/7/1.data.json\n",
    "Flow/12/train/7/1.\r.json",
    "Flow/12/train/7/1.a\\..\\..\\b",
    "Flow\\12\\train\\7\\1.data.json",
    "Flow/12/train/7/1.\u202e.json",
    "Flow/12/train/7/1.\u200b.json",
    "Flow/12/train/7/1.\u2028.json",
    "Flow/12/train/7/1.\ud800.json",
    "Flow/12/train/7/1.\xa0.json",
    "Flow/12/train/7/1." + "x" * 1024,
    "Flow/" * 300,
]


@pytest.mark.parametrize("path", TRICKS)
def test_not_in_normal_form(path: str) -> None:
    """Guards against paths that a storage resolves to another place than was judged."""
    for act in (POLICY.reading, POLICY.writing, POLICY.listing, split):
        with pytest.raises(RelayError):
            act(path)  # type: ignore[operator]


@pytest.mark.parametrize("path", [None, 7, b"Flow", ["Flow"], {"Flow": 1}, True])
def test_not_text(path: object) -> None:
    """Guards against a crash on what is no text."""
    with pytest.raises(RelayError):
        split(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (BLOB, Kind.BLOB),
        (CARD, Kind.CARD),
        ("Flow/12/train/7/1.data.json", Kind.OWN),
        ("Flow/12/train/7/1.attempt.json", Kind.OWN),
        ("Flow/12/train/7/1.DONE.lock", Kind.OWN),
        ("Flow/12/train/7/1.task_begin.json", Kind.OWN),
    ],
)
def test_writable(path: str, kind: Kind) -> None:
    """Guards against refusing what every task writes."""
    assert POLICY.writing(path) is kind


@pytest.mark.parametrize(
    "name",
    [
        "0.data.json",
        "2.attempt.json",
        "10.data.json",
        "01.data.json",
        "+1.data.json",
        "-1.data.json",
        "1",
        "1.",
        "data.json",
        ".data.json",
        "1_data.json",
        "\u00b9.data.json",
        "1.runtime_stdout.log",
        "1.runtime_stderr.log",
        "1.runtime.json",
        "1._resume_leader.json",
        "1.x_resume_y",
        "1.data.json_meta",
        "1.x_meta",
    ],
)
def test_not_this_attempts(name: str) -> None:
    """Guards against another attempt's files, the launcher's own records, and metadata of other files."""
    with pytest.raises(RelayError):
        POLICY.writing(f"Flow/12/train/7/{name}")


@pytest.mark.parametrize("path", ["Flow/12/start/3/0.data.json", "Flow/12/_parameters/1/0.x.json"])
def test_inputs_are_not_writable(path: str) -> None:
    """Guards against a task that changes what came before it."""
    with pytest.raises(RelayError):
        POLICY.writing(path)


def test_listing() -> None:
    """Guards against listing more than the directories of the task and of its inputs."""
    assert POLICY.listing("Flow/12/train/7") is Kind.OWN
    assert POLICY.listing("Flow/12/start/3") is Kind.INPUT
    assert POLICY.listing("Flow/12/_parameters/1") is Kind.INPUT
    assert POLICY.listing("Flow/runs/12/steps/train/tasks/7/cards") is Kind.CARD
    assert POLICY.listing("Flow/runs/12/tasks/7") is Kind.CARD
    for path in (
        "Flow",
        "Flow/12",
        "Flow/12/train",
        "Flow/12/start",
        "Flow/data",
        "Flow/data/01",
        BLOB,
        *OTHERS,
    ):
        # These are files of the task that were one level too high to be read, and directories of its own.
        if path not in ("Flow/12/train/7", "Flow/runs/12/steps/train/tasks/7/x.html"):
            with pytest.raises(RelayError):
                POLICY.listing(path)


def test_names_of_runs_that_look_like_folders() -> None:
    """Guards against a task whose own names open another task's directory."""
    policy = Policy(TaskIdentity("Flow", "data", "01", "x", 0), frozenset())
    assert policy.reading("Flow/data/01/x/0.data.json") is Kind.OWN
    policy = Policy(TaskIdentity("Flow", "12", "steps", "train", 0), frozenset())
    with pytest.raises(RelayError):
        policy.reading(CARD)


def test_random_paths_stay_inside() -> None:
    """Guards against any path that is let through and leaves the task's place once a storage resolves it."""
    rng = random.Random(20240)
    parts = f"Flow 12 train 7 start 3 data 01 {SHA} runs steps tasks cards _parameters 1".split()
    parts += ["..", ".", "", "1.data.json", "0.data.json", "1.x", "\\", "a\0", "%2e%2e", "~", "*"]
    accepted = 0
    for _ in range(20_000):
        components = rng.choice([BLOB, CARD, "Flow/12/train/7/1.x", "Flow/12/start/3/0.x"]).split("/")
        for _ in range(rng.randint(0, 2)):
            start = rng.randrange(len(components))
            components[start : start + rng.randint(0, 2)] = rng.choices(parts, k=rng.randint(0, 2))
            components = components or [""]
        path = "/".join(components)
        for act in (POLICY.reading, POLICY.writing, POLICY.listing):
            try:
                act(path)
            except RelayError:
                continue
            accepted += 1
            assert path.startswith("Flow/")
            assert not {"", ".", ".."} & set(path.split("/"))
    assert accepted
