"""Whatever is killed, the engine included: no container is left, nothing runs twice, the error is right."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("docker")

from metaflow_extensions.sandbox.backends.docker.backend import PodmanBackend
from metaflow_extensions.sandbox.backends.docker.engine import connect
from metaflow_extensions.sandbox.backends.docker.profile import SANDBOX_LABEL
from metaflow_extensions.sandbox.backends.interface import Command, Process, SandboxSpec
from metaflow_extensions.sandbox.errors import BackendUnavailable, SandboxLost, StartFailed

from .engines import Podman, podman_service
from .live import GONE_WITHIN, POLL, LiveFlow, all_processes, live_directory, live_flow

SANDBOXED = ("--with", "sandbox:memory=2048")
FOREVER = 600  # seconds
SLEEP = Command(["python3", "-c", "import time; print('up', flush=True); time.sleep(600)"])
OPEN_AND_SLEEP = """
import sys, time
from metaflow_extensions.sandbox.backends.docker.backend import PodmanBackend
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
sandbox = PodmanBackend().open(SandboxSpec(image=sys.argv[1]))
process = sandbox.start(Command(["python3", "-c", "import time; print('up', flush=True); time.sleep(600)"]))
next(process.output())
print(sandbox.id, process.container, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def engine_of_the_tests(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's environment names."""
    monkeypatch.setenv("CONTAINER_HOST", podman.url)


def containers(sandboxes: set[str]) -> list[str]:
    """Containers of these sandboxes that the engine still knows."""
    client = connect(podman_first=True).client
    return [
        container["Id"]
        for sandbox in sandboxes
        for container in client.containers(all=True, filters={"label": f"{SANDBOX_LABEL}={sandbox}"})
    ]


def await_none(find: Callable[[], object]) -> None:
    """Nothing is found within the promised time."""
    deadline = time.monotonic() + GONE_WITHIN
    while found := find():
        assert time.monotonic() < deadline, found
        time.sleep(POLL)


def monitored(container: str) -> list[int]:
    """Processes in a container, and those that watch over it."""
    found = []
    for process in all_processes():
        with contextlib.suppress(OSError):  # gone meanwhile
            groups = Path(f"/proc/{process.pid}/cgroup").read_text()
            if container in groups or (process.program == "conmon" and container in process.argv):
                found.append(process.pid)
    return found


# --- a run's own parts ----------------------------------------------------------------------------


@contextlib.contextmanager
def running(podman: Podman, width: int, *arguments: str) -> Iterator[LiveFlow]:
    """A run of LifeFlow whose bodies all run, in a container each with a daemon and the daemon's child."""
    env = {
        "METAFLOW_SANDBOX_BACKEND": "podman",
        "METAFLOW_SANDBOX_IMAGE": Podman.IMAGE,
        "CONTAINER_HOST": podman.url,
    }
    with live_directory() as root:
        words = ["run", "--width", str(width), "--seconds", str(FOREVER), "--marker", f"{root}/child"]
        with live_flow("life_flow.py", *words, *arguments, root=root, env=env) as flow:
            flow.wait_for("runs as attempt 0", width)
            yield flow


@pytest.mark.parametrize("role", ["scheduler", "supervisor", "step", "shim"])
def test_a_killed_part_leaves_no_container(podman: Podman, role: str) -> None:
    """Guards against containers, which no parent's death ends, that outlive what they were started for."""
    with running(podman, 2, *SANDBOXED) as flow:
        sandboxes = flow.sandboxes()
        assert len(containers(sandboxes)) == 2
        flow.kill(role)
        run = flow.finish()
        flow.assert_gone(sandboxes)
        await_none(lambda: containers(sandboxes))
    assert run.returncode == (-signal.SIGKILL if role == "scheduler" else 1), run.output
    assert run.output.count("runs as attempt 0") == 2
    assert "Traceback" not in run.output


def test_ctrl_c_leaves_no_container(podman: Podman) -> None:
    """Guards the way a run is most often ended."""
    with running(podman, 3, *SANDBOXED) as flow:
        sandboxes = flow.sandboxes()
        flow.interrupt()
        run = flow.finish()
        flow.assert_gone(sandboxes)
        await_none(lambda: containers(sandboxes))
    assert run.returncode != 0
    assert "Traceback" not in run.output


def test_a_timeout_ends_the_container(podman: Podman) -> None:
    """Guards @timeout, whose signal goes to a process inside."""
    with running(podman, 1, *SANDBOXED, "--with", "timeout:seconds=3") as flow:
        sandboxes = flow.sandboxes()
        run = flow.finish()
        flow.assert_gone(sandboxes)
        await_none(lambda: containers(sandboxes))
    assert run.returncode == 1
    assert "timed out after" in run.output


# --- a launcher without a supervisor ------------------------------------------------------------


def test_a_killed_launchers_container_is_removed() -> None:
    """Guards whoever uses the backend by itself: SIGKILL can't be caught, so another process cleans up."""
    words = [sys.executable, "-c", OPEN_AND_SLEEP, Podman.IMAGE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout
        sandbox, container = launcher.stdout.readline().split()
        launcher.kill()
    await_none(lambda: containers({sandbox}))
    await_none(lambda: monitored(container))
    assert sandbox not in {info.id for info in PodmanBackend().list({})}


# --- the engine ---------------------------------------------------------------------------------


@pytest.fixture
def doomed(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> Iterator[Podman]:
    """A second service on the same storage, to be killed."""
    with podman_service() as service:
        monkeypatch.setenv("CONTAINER_HOST", service.url)
        yield service
    monkeypatch.setenv("CONTAINER_HOST", podman.url)


def kill_engine(service: Podman) -> None:
    """The service and its parent, not what runs in containers and who watches over that."""
    (engine,) = (
        process.pid
        for process in all_processes()
        if process.parent == service.process.pid and process.program == "podman"
    )
    os.kill(engine, signal.SIGKILL)
    service.process.wait()


def started(backend: PodmanBackend) -> tuple[str, Process, Callable[[], None]]:
    """A sandbox in which a command runs: its id, the process, and what closes it."""
    sandbox = backend.open(SandboxSpec(image=Podman.IMAGE))
    process = sandbox.start(SLEEP)
    assert next(process.output()).data == b"up\n"
    return sandbox.id, process, sandbox.close


def test_an_engine_that_dies_loses_the_sandbox(
    doomed: Podman, podman: Podman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a task that hangs or passes when its engine goes, and processes that go on unseen."""
    backend = PodmanBackend()
    sandbox, process, close = started(backend)
    container: str = process.container  # type: ignore[attr-defined]
    outcomes: list[BaseException] = []

    def wait() -> None:
        try:
            process.wait()
        except SandboxLost as error:
            outcomes.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    kill_engine(doomed)
    waiting.join(GONE_WITHIN)
    assert [type(outcome) for outcome in outcomes] == [SandboxLost]
    with pytest.raises(SandboxLost):
        list(process.output())
    await_none(lambda: monitored(container))
    with pytest.raises(SandboxLost, match=sandbox):
        close()
    close()  # idempotent all the same
    # What the engine remembers is found and removed once there is an engine again.
    monkeypatch.setenv("CONTAINER_HOST", podman.url)
    again = PodmanBackend()
    assert sandbox in {info.id for info in again.list({})}
    again.destroy(sandbox)
    assert containers({sandbox}) == []
    assert sandbox not in {info.id for info in again.list({})}


def test_a_kill_works_without_the_engine(doomed: Podman) -> None:
    """Guards against a cancelled task that goes on because its engine can't be asked to end it."""
    backend = PodmanBackend()
    sandbox, process, close = started(backend)
    kill_engine(doomed)
    process.kill()
    await_none(lambda: monitored(process.container))  # type: ignore[attr-defined]
    with pytest.raises(SandboxLost, match=sandbox):
        close()


def test_nothing_starts_without_the_engine(doomed: Podman) -> None:
    """Guards the class of the error: before user code a failure may be tried again."""
    backend = PodmanBackend()
    sandbox = backend.open(SandboxSpec(image=Podman.IMAGE))
    kill_engine(doomed)
    with pytest.raises(StartFailed, match="does not answer"):
        sandbox.start(SLEEP)
    with pytest.raises(StartFailed):
        backend.open(SandboxSpec(image=Podman.IMAGE))
    with pytest.raises(SandboxLost):
        sandbox.close()


def test_a_step_whose_engine_dies_is_not_run_again(doomed: Podman) -> None:
    """Guards against running user code twice because its engine went away."""
    with running(doomed, 1, *SANDBOXED) as flow:
        kill_engine(doomed)
        run = flow.finish()
        flow.assert_gone()
    assert run.returncode == 1, run.output
    assert run.output.count("runs as attempt") == 1
    assert "SandboxLost" in run.output
    assert "trying again" not in run.output
    assert "Traceback" not in run.output


def test_without_an_engine_the_places_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against an error that does not say where an engine was looked for."""
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/none.sock")
    backend = PodmanBackend()
    for attempt in (backend.check, lambda: backend.open(SandboxSpec(image=Podman.IMAGE, memory=64))):
        with pytest.raises(BackendUnavailable, match=r"none\.sock \(CONTAINER_HOST: no such socket\)"):
            attempt()
