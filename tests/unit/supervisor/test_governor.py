"""The governor: a provider that allows fewer sandboxes than there are tasks fails none of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from metaflow_extensions.sandbox.errors import QuotaExceeded, StartFailed
from metaflow_extensions.sandbox.supervisor import governor as module
from metaflow_extensions.sandbox.supervisor.governor import Governor


class Provider:
    """Allows so many sandboxes at a time; remembers how many there were."""

    def __init__(self, allows: int, retry_after: float | None = 0.01) -> None:
        self.allows = allows
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self.live = self.peak = self.made = self.refused = 0

    def make(self) -> int:
        with self._lock:
            if self.live >= self.allows:
                self.refused += 1
                raise QuotaExceeded("too many", self._retry_after)
            self.live += 1
            self.made += 1
            self.peak = max(self.peak, self.live)
            return self.made

    def end(self) -> None:
        with self._lock:
            self.live -= 1


def run(
    governor: Governor,
    provider: Provider,
    *,
    seconds: float = 0.01,
    tell: Callable[[str], None] = lambda _line: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """One task."""
    with governor.sandbox(provider.make, tell, cancelled):
        time.sleep(seconds)
        provider.end()


def test_200_tasks_on_a_provider_that_allows_20() -> None:
    """Guards a wide foreach: all finish, and the provider is not asked again and again."""
    governor, provider, errors = Governor("cloud"), Provider(20), []

    def task() -> None:
        try:
            # Long enough for twenty to be there at once, however slowly threads start.
            run(governor, provider, seconds=0.05)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=task) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert (provider.made, provider.live, provider.peak) == (200, 0, 20)
    assert provider.refused < 200 + 60  # each at most once at first, before the limit is known


def test_a_limit_of_the_users_is_never_passed() -> None:
    """Guards METAFLOW_SANDBOX_MAX_SANDBOXES: the provider is not even asked for more."""
    governor, provider = Governor("cloud", limit=3), Provider(100)
    threads = [threading.Thread(target=run, args=(governor, provider)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (provider.made, provider.refused) == (30, 0)
    assert provider.peak <= 3


def test_who_came_first_is_served_first() -> None:
    """Guards a task against waiting for ever beside others that come later."""
    governor, provider, order = Governor("cloud", limit=1), Provider(1), []
    held = threading.Event()
    threads = [threading.Thread(target=lambda: run_until(held))]

    def run_until(event: threading.Event) -> None:
        with governor.sandbox(provider.make, lambda _line: None, lambda: False):
            event.wait(10)
            provider.end()

    def task(number: int) -> None:
        with governor.sandbox(provider.make, lambda _line: None, lambda: False):
            order.append(number)
            provider.end()

    threads[0].start()
    for number in range(10):
        waiting = len(governor._queue)
        threads.append(threading.Thread(target=task, args=(number,)))
        threads[-1].start()
        while len(governor._queue) == waiting and number + 1 > waiting:
            time.sleep(0.001)
    held.set()
    for thread in threads:
        thread.join(10)
    assert order == sorted(order)
    assert len(order) == 10


def test_a_rate_spreads_creations() -> None:
    """Guards a provider's limit of creations a second."""
    governor, provider = Governor("cloud", rate=50.0), Provider(100)
    begin = time.monotonic()
    for _ in range(6):
        run(governor, provider, seconds=0)
    assert time.monotonic() - begin >= 5 / 50


def test_a_cancelled_task_stops_waiting() -> None:
    """Guards Ctrl-C while hundreds wait."""
    governor, provider = Governor("cloud", limit=1), Provider(1)
    with governor.sandbox(provider.make, lambda _line: None, lambda: False):
        with pytest.raises(StartFailed, match="cancelled"):
            run(governor, provider, cancelled=lambda: True)
        provider.end()
    run(governor, provider)  # its place in the queue is gone, too


def test_the_user_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that seems to hang."""
    monkeypatch.setattr(module, "SAY_AFTER", 0.01)
    monkeypatch.setattr(module, "TICK", 0.01)
    governor, provider, told = Governor("cloud", limit=1), Provider(1), []
    with governor.sandbox(provider.make, lambda _line: None, lambda: False):
        with pytest.raises(StartFailed):
            run(governor, provider, tell=told.append, cancelled=lambda: bool(told))
        provider.end()
    assert told == ["1 wait for a sandbox of cloud: 1 run, the limit of METAFLOW_SANDBOX_MAX_SANDBOXES"]


def test_a_quota_that_nothing_frees_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against waiting for ever on an account that allows none."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    provider = Provider(0)
    with pytest.raises(QuotaExceeded):
        run(Governor("cloud"), provider)
    assert provider.refused > 1


def test_another_failure_frees_its_place() -> None:
    """Guards the count: a sandbox that was not made takes no place."""
    governor, provider = Governor("cloud", limit=1), Provider(1)

    def fail() -> int:
        raise StartFailed("no")

    for _ in range(2):
        with (
            pytest.raises(StartFailed, match="no"),
            governor.sandbox(fail, lambda _line: None, lambda: False),
        ):
            pass
    run(governor, provider)
