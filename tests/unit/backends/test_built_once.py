"""What is built in an account once, with threads that ask for it at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from metaflow_extensions.sandbox.backends.built_once import BuiltOnce
from metaflow_extensions.sandbox.errors import SandboxError, StartFailed

AT_ONCE = 8


class Account:
    """Has what was built, unless building fails."""

    def __init__(self) -> None:
        self.has: set[str] = set()
        self.asked = self.builds = 0
        self.fails = False
        self.everyone_asks = threading.Barrier(AT_ONCE)

    def ensure(self, built: BuiltOnce, name: str = "it", *, anew: bool = False) -> None:
        built.ensure(name, lambda: self.there(name), lambda: self.build(name), anew=anew)

    def there(self, name: str) -> bool:
        self.asked += 1
        return name in self.has

    def build(self, name: str) -> None:
        self.builds += 1
        if self.fails:
            time.sleep(0.3)  # in which all others ask
            raise StartFailed("the disk is full")
        self.has.add(name)


def test_the_first_one_builds() -> None:
    """Guards a foreach against a build, or a question, for each of its tasks."""
    account, built = Account(), BuiltOnce()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: account.ensure(built), range(AT_ONCE)))
    assert (account.asked, account.builds) == (1, 1)
    account.ensure(built, "another")
    assert account.builds == 2


def test_what_is_there_is_not_built() -> None:
    """Guards a second run."""
    account = Account()
    account.has.add("it")
    account.ensure(BuiltOnce())
    assert account.builds == 0


def test_what_somebody_has_removed_is_built_again() -> None:
    """Guards a long run against somebody who tidies up."""
    account, built = Account(), BuiltOnce()
    account.ensure(built)
    account.has.clear()
    account.ensure(built)
    assert account.builds == 1
    account.ensure(built, anew=True)
    assert account.builds == 2


def test_a_failure_is_everyones_who_waited() -> None:
    """Guards a foreach against a failing build for each task, and a later try against an old failure."""
    account, built = Account(), BuiltOnce()
    account.fails = True

    def failed(_number: int) -> bool:
        account.everyone_asks.wait()
        with pytest.raises(SandboxError, match="disk is full"):
            account.ensure(built)
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(failed, range(AT_ONCE)))
    assert account.builds == 1
    account.fails = False
    account.ensure(built)
    assert account.has == {"it"}
