"""The cache of environments: made once, kept while in use, never half."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed, StartFailed
from metaflow_extensions.sandbox.packages.cache import PackageCache, default_directory

FACTS = {"python": "3.11", "packages": ["demo==1.0"]}


def fill(draft: Path) -> None:
    (draft / "lib").mkdir()
    (draft / "lib" / "file").write_text("x" * 1000)


def never() -> bool:
    return False


def make(cache: PackageCache, key: str, fill: Callable[[Path], None] = fill) -> None:
    with cache.environment(key, FACTS, fill, never):
        return


@pytest.fixture
def cache(tmp_path: Path) -> PackageCache:
    return PackageCache(tmp_path / "cache")


def names(cache: PackageCache) -> list[str]:
    """All that stands among the environments, without locks."""
    found = (cache.directory / "environments").iterdir()
    return sorted(path.name for path in found if path.suffix != ".lock")


def test_one_is_made_by_the_first_of_many(cache: PackageCache) -> None:
    """Guards a foreach of 20: the others wait, and find it whole."""
    made = []

    def slowly(draft: Path) -> None:
        made.append(draft)
        time.sleep(0.2)
        fill(draft)

    def use(_number: int) -> str:
        with cache.environment("k", FACTS, slowly, never) as place:
            return (place / "lib" / "file").read_text()

    with ThreadPoolExecutor(20) as pool:
        contents = set(pool.map(use, range(20)))
    assert contents == {"x" * 1000}
    assert len(made) == 1
    assert names(cache) == ["k", "k.json"]


def test_a_failure_leaves_nothing(cache: PackageCache) -> None:
    """Guards the next try, which must not find the first half."""

    def fail(draft: Path) -> None:
        fill(draft)
        raise PackagesFailed("no")

    with pytest.raises(PackagesFailed, match="no"):
        make(cache, "k", fail)
    assert names(cache) == []
    make(cache, "k")
    assert names(cache) == ["k", "k.json"]


def killed_half_way(directory: Path) -> None:
    def die(draft: Path) -> None:
        fill(draft)
        os.kill(os.getpid(), signal.SIGKILL)

    make(PackageCache(directory), "k", die)


def test_what_a_killed_maker_left_is_removed(cache: PackageCache) -> None:
    """Guards SIGKILL in the middle: its lock goes with it, its draft by who comes next, or by tidy."""
    for clean_up in (lambda: make(cache, "k"), cache.tidy):
        for entry in cache.entries():
            assert cache.remove(entry)
        child = multiprocessing.get_context("fork").Process(target=killed_half_way, args=(cache.directory,))
        child.start()
        child.join()
        assert [name.startswith("k.draft-") for name in names(cache)] == [True]
        clean_up()
        assert not [name for name in names(cache) if "draft" in name]


def test_what_is_being_made_is_not_tidied_away(cache: PackageCache) -> None:
    """Guards a build against another run's clean-up."""

    def tidy_meanwhile(draft: Path) -> None:
        fill(draft)
        cache.tidy()
        assert draft.exists()

    make(cache, "k", tidy_meanwhile)
    assert names(cache) == ["k", "k.json"]


def test_least_recently_used_goes_first(cache: PackageCache) -> None:
    """Guards the cap: what is in use stays, however old; a use counts."""
    for number, key in enumerate(("a", "b", "c", "d")):
        make(cache, key)
        os.utime(cache.directory / "environments" / f"{key}.json", (number, number))
    make(cache, "b")  # used again
    size = cache.entries()[0].size
    with cache.environment("a", FACTS, fill, never):
        os.utime(cache.directory / "environments" / "a.json", (0, 0))
        removed = cache.shrink(2 * size)
    assert [entry.name for entry in removed] == ["c", "d"]
    assert [entry.name for entry in cache.entries()] == ["a", "b"]


def test_wheels_are_entries_too(cache: PackageCache) -> None:
    """Guards the cap against wheels, which take as much as environments."""
    place = cache.wheels / "abc"
    place.mkdir(parents=True)
    (place / "demo-1.0-py3-none-any.whl").write_bytes(b"x" * 100)
    (entry,) = cache.entries()
    assert (entry.kind, entry.size, entry.holds) == ("wheel", 100, "demo-1.0-py3-none-any.whl")
    assert cache.shrink(0) == [entry]
    assert cache.entries() == []


def test_removal_waits_for_nobody(cache: PackageCache) -> None:
    """Guards what runs: an environment in use is not removed, and is afterwards."""
    with cache.environment("k", FACTS, fill, never) as place:
        (entry,) = cache.entries()
        assert not cache.remove(entry)
        assert (place / "lib" / "file").exists()
    assert cache.remove(entry)
    assert names(cache) == []


def test_waiting_can_be_cancelled(cache: PackageCache) -> None:
    """Guards Ctrl-C while another run builds."""
    building, done = threading.Event(), threading.Event()

    def long(draft: Path) -> None:
        building.set()
        done.wait(60)

    thread = threading.Thread(target=make, args=(cache, "k", long))
    thread.start()
    building.wait(60)
    with pytest.raises(StartFailed, match="cancelled"), cache.environment("k", FACTS, fill, lambda: True):
        pass
    done.set()
    thread.join()


def test_archive_is_made_once(cache: PackageCache) -> None:
    """Guards sandboxes without mounts: one archive for all of them, none left when it fails."""
    make(cache, "k")
    calls = []

    def pack(environment: Path, target: Path) -> None:
        calls.append(environment.name)
        target.write_text("packed")
        if len(calls) == 1:
            raise OSError(28, "No space left on device")

    with pytest.raises(PackagesFailed, match="No space left"):
        cache.archive("k", pack)
    assert names(cache) == ["k", "k.json"]
    assert cache.archive("k", pack) == cache.archive("k", pack)
    assert calls == ["k", "k"]
    assert cache.entries()[0].size > 1000 + len("packed")


def test_others_cannot_have_filled_it(cache: PackageCache) -> None:
    """Guards a cache in a shared place: what someone else put there would run in the step."""
    cache.directory.mkdir()
    cache.directory.chmod(0o777)
    with pytest.raises(PackagesFailed, match="chmod go-w"):
        make(cache, "k")


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    """Guards the message: which directory, and what sets another."""
    (tmp_path / "file").touch()
    with pytest.raises(PackagesFailed, match=r"METAFLOW_SANDBOX_CACHE"):
        make(PackageCache(tmp_path / "file" / "below"), "k")


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards where it is: what the setting names, else the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert default_directory(None) == Path("/var/cache/me/metaflow-sandbox")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_directory("") == Path.home() / ".cache" / "metaflow-sandbox"
    assert default_directory("~/x") == Path.home() / "x"
