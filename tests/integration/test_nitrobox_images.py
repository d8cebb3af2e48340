"""nitrobox and references: pulled from a registry for real, and what a registry that refuses becomes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .live import all_processes
from .registry import Registry

pytest.importorskip("nitrobox", reason="nitrobox needs Python 3.12: pip install nitrobox")

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.backends.nitrobox.backend import NitroboxBackend
from metaflow_extensions.sandbox.backends.nitrobox.images import check_image
from metaflow_extensions.sandbox.errors import UnsupportedOption

# The first alone: it starts the build daemon, once.
OPEN_EACH = """
import json, sys, threading
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
from metaflow_extensions.sandbox.backends.nitrobox.backend import NitroboxBackend
from metaflow_extensions.sandbox.errors import SandboxError

results = {}

def look(kind, image):
    told = []
    sandbox = NitroboxBackend().open(SandboxSpec(image=image, tell=told.append))
    try:
        process = sandbox.start(Command(["python3", "-c", "import sys; print(sys.version_info[0])"]))
        said = b"".join(chunk.data for chunk in process.output()).decode()
        results[kind] = ["", said, told]
    except SandboxError as error:
        results[kind] = [type(error).__name__, str(error), told]
    finally:
        sandbox.close()

first, *others = json.loads(sys.argv[1]).items()
look(*first)
threads = [threading.Thread(target=look, args=each) for each in others]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def seen(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What opening each kind of reference comes to: the error's class, what it says, what was told."""
    if os.geteuid():
        pytest.skip("nitrobox needs root")
    home = tmp_path_factory.mktemp("home")
    images = {kind: registry.image(kind) for kind in ("open", "private", "token", "broken")}
    images["again"] = images["open"]
    images["absent"] = images["open"].replace("python", "nothing")
    env = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "TMPDIR": str(home)}
    with private_ids(home):
        done = subprocess.run(
            [sys.executable, "-c", OPEN_EACH, json.dumps(images)],
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        stop_daemon(home, env)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert isinstance(results, dict)
    yield results


@contextlib.contextmanager
def private_ids(home: Path) -> Iterator[None]:
    """Ranges of ids for root, in this process's own mount namespace alone."""
    ids = home / "ids"
    ids.write_text("root:100000:65536\n")
    places = ("/etc/subuid", "/etc/subgid")
    for place in places:
        subprocess.run(["mount", "--bind", ids, place], check=True)
    try:
        yield
    finally:
        for place in places:
            subprocess.run(["umount", place], check=True)


def stop_daemon(home: Path, env: dict[str, str]) -> None:
    """End nitrobox's build daemon the documented way, and wait for it."""
    subprocess.run([Path(sys.executable).with_name("nitrobox"), "buildkit-stop"], env=env, check=True)
    deadline = time.monotonic() + 10
    while running := daemons(home):
        if time.monotonic() > deadline:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def daemons(home: Path) -> list[int]:
    """Processes of a build daemon that was started with this home."""
    found = []
    for process in all_processes():
        with contextlib.suppress(OSError):  # gone meanwhile
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if f"HOME={home}".encode() in environment and any("buildkit" in word for word in process.argv):
                found.append(process.pid)
    return found


def test_a_reference_is_pulled_and_the_user_told(seen: dict[str, Any]) -> None:
    """Guards images by reference, and a wait that nobody explains."""
    error, said, told = seen["open"]
    assert (error, said) == ("", "3\n")
    assert len(told) == 1
    assert "pulling the image" in told[0]


def test_an_image_that_is_there_is_not_pulled_again(seen: dict[str, Any]) -> None:
    """Guards the second task's time."""
    assert seen["again"] == ["", "3\n", []]


def test_a_missing_image_is_an_option_to_change(seen: dict[str, Any]) -> None:
    """Guards against retries of what can't succeed."""
    error, said, _ = seen["absent"]
    assert error == "UnsupportedOption", said
    assert "there is no image" in said
    assert "nothing:latest" in said


@pytest.mark.parametrize("kind", ["private", "token"])
def test_a_denied_image_says_how_to_log_in(seen: dict[str, Any], kind: str) -> None:
    """Guards private registries: who isn't logged in hears it at once."""
    error, said, _ = seen[kind]
    assert error == "UnsupportedOption", said
    assert "docker login" in said


def test_a_failing_registry_may_be_tried_again(seen: dict[str, Any]) -> None:
    """Guards against giving up for a registry that is down for a moment."""
    error, said, _ = seen["broken"]
    assert error == "StartFailed", said
    assert "503" in said


def test_what_pulling_needs_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a minute's wait for a daemon that can't start here."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedOption, match="apt-get install runc"):
        check_image("registry.invalid/python:3")
    with pytest.raises(UnsupportedOption, match="directory of a root file system"):
        NitroboxBackend().open(SandboxSpec(image="registry.invalid/python:3"))
