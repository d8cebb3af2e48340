"""Reading ahead: in order it saves round trips, otherwise it asks for nothing that nobody asked for."""

from __future__ import annotations

import json
import threading

import pytest

from metaflow_extensions.sandbox.guest.ahead import AT_ONCE, MAX_LISTINGS, SMALL, Object, ReadAhead, natural

STORE = "local@/data"


class Launcher:
    """Has every object; remembers how many were asked for at a time."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.missing: set[str] = set()

    def load_all(self, store: str, paths: list[str]) -> list[Object]:
        assert store == STORE
        self.asked.append(paths)
        return [
            (False, None, b"") if path in self.missing else (True, {"of": path}, path.encode())
            for path in paths
        ]


def key(number: int) -> str:
    return f"{number:040x}"


def path(number: int) -> str:
    return f"Flow/data/{key(number)[:2]}/{key(number)}"


def reading(count: int, size: int = 10) -> tuple[Launcher, ReadAhead]:
    """A launcher, and a reader that knows a task of so many artifacts."""
    launcher = Launcher()
    ahead = ReadAhead(launcher.load_all)
    names = {f"a{number}": key(number) for number in range(count)}
    listing = {"objects": names, "info": {name: {"size": size} for name in names}}
    ahead.learn(json.dumps(listing).encode())
    return launcher, ahead


def test_in_order_a_few_round_trips_are_enough() -> None:
    """Guards the time of a step that reads a thousand small artifacts, and what it gets."""
    launcher, ahead = reading(1000)
    for number in range(1000):
        assert ahead.take(STORE, path(number)) == (True, {"of": path(number)}, path(number).encode())
    assert [len(paths) for paths in launcher.asked[:7]] == [1, 2, 4, 8, 16, 32, 64]
    assert max(map(len, launcher.asked)) == AT_ONCE
    assert sum(map(len, launcher.asked)) == 1000


@pytest.mark.parametrize("by", ["name", "input"])
def test_the_inputs_of_a_join(by: str) -> None:
    """Guards a join over a hundred inputs, whether it reads name by name or input by input."""
    launcher = Launcher()
    ahead = ReadAhead(launcher.load_all)
    tasks = [
        {"all": key(1), **{f"a{name}": key(1000 * name + task) for name in range(3)}} for task in range(100)
    ]
    listings = [{"objects": names, "info": {name: {"size": 1} for name in names}} for names in tasks]
    ahead.learn(*(json.dumps(listing).encode() for listing in listings))
    reads = [(name, task) for name in range(3) for task in range(100)]
    for name, task in reads if by == "name" else sorted(reads, key=lambda read: read[1]):
        for number in (1000 * name + task, *([1] if name == 0 else [])):  # what all of them have
            assert ahead.take(STORE, path(number)) == (True, {"of": path(number)}, path(number).encode())
    assert len(launcher.asked) < 20
    assert sum(map(len, launcher.asked)) <= 301


def test_very_many_inputs() -> None:
    """Guards the memory of a join: the first of its inputs are read ahead, the others one by one."""
    launcher = Launcher()
    ahead = ReadAhead(launcher.load_all)
    padding = "x" * (MAX_LISTINGS // 10)
    listings = [{"objects": {"a": key(n)}, "info": {"a": {"size": 1}}, "padding": padding} for n in range(20)]
    ahead.learn(*(json.dumps(listing).encode() for listing in listings))
    assert [ahead.take(STORE, path(number)) is not None for number in range(20)] == [True] * 9 + [False] * 11


def test_out_of_order_at_most_twice_as_many_are_loaded() -> None:
    """Guards a step that reads a few artifacts of many against being sent the others."""
    launcher, ahead = reading(1000)
    for asked, number in enumerate((50, 7, 99, 3, 999, 500, 8, 400), 1):
        assert ahead.take(STORE, path(number)) == (True, {"of": path(number)}, path(number).encode())
        assert sum(map(len, launcher.asked)) <= 2 * asked


def test_backwards_is_no_slower_than_one_by_one() -> None:
    """Guards a loop in the other direction: nothing is loaded twice, and in the end all is ready."""
    launcher, ahead = reading(100)
    for number in reversed(range(100)):
        assert ahead.take(STORE, path(number)) is not None
    assert sum(map(len, launcher.asked)) == 100


def test_numbered_artifacts_are_read_as_numbers() -> None:
    """Guards loops over part2 and part10, whose names Metaflow lists the other way round."""
    assert sorted(["part10", "part2", "a", "part", "2", "b1c10", "b1c9"], key=natural) == [
        "2", "a", "b1c9", "b1c10", "part", "part2", "part10",
    ]  # fmt: skip


def test_what_is_missing_is_asked_for_again() -> None:
    """Guards an artifact whose loading ahead failed: only the one that was asked for may fail."""
    launcher, ahead = reading(4)
    launcher.missing = {path(2)}
    assert [ahead.take(STORE, path(number)) for number in range(2)]
    assert path(2) in launcher.asked[1]
    launcher.missing = set()
    assert ahead.take(STORE, path(2)) == (True, {"of": path(2)}, path(2).encode())


def test_a_thread_never_waits_for_another() -> None:
    """Guards a process forked while another thread reads: it goes without, instead of waiting for ever."""
    launcher, ahead = reading(4)
    met: list[Object | None] = []
    loading = launcher.load_all

    def meanwhile(store: str, paths: list[str]) -> list[Object]:
        thread = threading.Thread(target=lambda: met.append(ahead.take(STORE, path(1))))
        thread.start()
        thread.join()
        return loading(store, paths)

    ahead._load_all = meanwhile
    assert ahead.take(STORE, path(0)) is not None
    assert met == [None]


def test_twice_is_asked_for_twice() -> None:
    """Guards the memory of a step: nothing is kept that was given."""
    launcher, ahead = reading(3)
    assert ahead.take(STORE, path(0)) == ahead.take(STORE, path(0))
    assert [paths[0] for paths in launcher.asked] == [path(0), path(0)]


def test_large_ones_and_strangers_are_left_alone() -> None:
    """Guards artifacts that are streamed, and objects that are none."""
    launcher, ahead = reading(3, size=SMALL + 1)
    assert ahead.take(STORE, path(0)) is None
    assert ahead.take(STORE, "Flow/1/start/2/0.task_begin") is None
    assert launcher.asked == []


@pytest.mark.parametrize("listing", [b"", b"[]", b"{", b'{"objects": {"a": 1}, "info": {}}', b"\xff"])
def test_listing_of_another_make(listing: bytes) -> None:
    """Guards against another version of Metaflow: artifacts are then read one by one."""
    launcher, ahead = reading(3)
    ahead.learn(listing or b" ")
    assert ahead.take(STORE, path(0)) is None
    assert launcher.asked == []
