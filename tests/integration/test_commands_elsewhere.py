"""ps, kill and cleanup where an engine or a server has the sandboxes, which outlive whoever made them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .commands import command, opened, place_of
from .harness import TIMEOUT
from .live import live_directory
from .suites import SUITES

if TYPE_CHECKING:
    from .boxlite import BoxliteServer


@dataclass(frozen=True)
class Place:
    """A provider, and how many sandboxes it has."""

    backend: str
    env: Mapping[str, str]
    image: str | None

    @property
    def only(self) -> tuple[str, ...]:
        """The options that name it; a machine under load takes its time to import an SDK."""
        return ("--backend", self.backend, "--deadline", "120")

    def ids(self, *words: str) -> set[str]:
        """What ps lists."""
        listed = command("ps", "--json", *self.only, *words, env=self.env)
        assert listed.code == 0, listed.err
        return {sandbox["id"] for sandbox in listed.json["sandboxes"]}

    def await_ids(self, expected: set[str], *words: str) -> None:
        """Wait until ps lists these: some clouds' own lists lag."""
        deadline = time.monotonic() + TIMEOUT
        while (found := self.ids(*words)) != expected:
            assert time.monotonic() < deadline, (found, expected)


@pytest.fixture(scope="module")
def server() -> Iterator[BoxliteServer]:
    """A server of boxes."""
    pytest.importorskip("boxlite")
    from .boxlite import boxlite_server

    with boxlite_server() as found:
        yield found


@pytest.fixture(params=["podman", "boxlite", "e2b", "daytona"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each of them, or the stand-in for it, with a place for records of the test's own."""
    suite = SUITES[request.param]
    pytest.importorskip("docker" if request.param == "podman" else request.param)
    with live_directory() as root, suite.setting(tmp_path, request) as variables:
        yield Place(request.param, {**place_of(root / "tmp"), **variables}, suite.image())


def test_what_runs_elsewhere_is_listed_and_killed(provider: Place) -> None:
    """Guards against sandboxes of a provider that only their own process can see or end."""
    place = provider
    with opened(3, place.env, backend=place.backend, image=place.image, busy=3, run="e1") as opener:
        place.await_ids(set(opener.ids), "--run", "e1")
        killed = command("kill", opener.ids[0], *place.only, env=place.env)
        assert killed.code == 0, killed.err
        place.await_ids(set(opener.ids[1:]), "--run", "e1")
        assert command("kill", "--run", "e1", *place.only, env=place.env).code == 0
        place.await_ids(set(), "--run", "e1")


def test_orphans_elsewhere_are_cleaned_up(provider: Place) -> None:
    """Guards against machines and containers that run on, and cost, when everything here was killed."""
    place = provider
    with opened(2, place.env, backend=place.backend, image=place.image, busy=2, run="e2") as opener:
        opener.die()
        place.await_ids(set(opener.ids), "--run", "e2")
        cleaned = command("cleanup", "--run", "e2", *place.only, env=place.env)
        assert cleaned.code == 0, cleaned.err
        assert all(f"removed the sandbox {sandbox}" in cleaned.out for sandbox in opener.ids)
        place.await_ids(set(), "--run", "e2")


def test_nothing_is_left_on_the_server(server: BoxliteServer) -> None:
    """Guards against a cleanup that forgets a box here, which then runs on there."""
    with live_directory() as root:
        env = {**place_of(root / "tmp"), **server.settings}
        with opened(2, env, backend="boxlite", busy=2) as opener:
            opener.die()
            assert len(server.boxes()) == 2
            command("cleanup", "--backend", "boxlite", env=env)
            assert server.boxes() == []


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that neither answers nor ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_server_that_hangs(server: BoxliteServer) -> None:
    """Guards against commands that hang with a server, or say that they have ended what still runs."""
    both = ("--backend", "boxlite", "--backend", "bubblewrap", "--deadline", "4")
    with live_directory() as root:
        env = {**place_of(root / "tmp"), **server.settings}
        with (
            opened(1, env, backend="boxlite", run="e3") as box,
            opened(1, env, backend="bubblewrap", run="e3") as local,
        ):
            with stopped(server.process.pid):
                killed = command("kill", "--run", "e3", "--json", *both, env=env)
                assert killed.code == 1
                assert [sandbox["id"] for sandbox in killed.json["killed"]] == local.ids
                assert [failure["backend"] for failure in killed.json["failed"]] == ["boxlite"]
                # What it could not end is still known.
                listed = command("ps", "--json", *both, env=env).json["sandboxes"]
                assert [sandbox["id"] for sandbox in listed] == box.ids
            again = command("kill", "--run", "e3", "--json", *both, env=env)
            assert again.code == 0, again.err
            assert [sandbox["id"] for sandbox in again.json["killed"]] == box.ids
            assert server.boxes() == []
