"""Whatever is killed, and however a run ends: nothing is left, nothing runs twice, Metaflow decides."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox import guest, supervisor

from .harness import FlowRun, place_flow
from .live import LiveFlow, live_directory, live_flow

# Limited, so that there is a cgroup to leave behind where one can be made.
SANDBOXED = ("--with", "sandbox:memory=2048")
RETRIED = ("--with", "retry:times=1,minutes_between_retries=0")
FOREVER = 600  # seconds
SCRIPTED = "metaflow_extensions.sandbox.testing.scripted:ScriptedBackend"

Kill = Callable[[LiveFlow], object]


@contextlib.contextmanager
def running(
    width: int = 1, *, seconds: float = FOREVER, sandboxed: bool = True, retried: bool = False
) -> Iterator[LiveFlow]:
    """A run of LifeFlow whose bodies all run, in a sandbox each with a daemon and the daemon's child."""
    with live_directory() as root:
        arguments = ["run", "--width", str(width), "--seconds", str(seconds)]
        # Metaflow waits for ever for the daemons of a local step.
        arguments += [
            *(("--marker", f"{root}/child", *SANDBOXED) if sandboxed else ()),
            *(RETRIED if retried else ()),
        ]
        with live_flow("life_flow.py", *arguments, root=root) as flow:
            flow.wait_for("runs as attempt 0", width)
            yield flow


def bodies(run: FlowRun | LiveFlow) -> list[str]:
    """What ran, in a fixed order: "0 runs as attempt 1"."""
    return sorted(
        line.partition(" body ")[2] for line in run.output.splitlines() if " runs as attempt " in line
    )


def ended_by(kill: Kill, width: int) -> int:
    """Exit code of the run after a kill, and that nothing is left of it."""
    with running(width) as flow:
        sandboxes = flow.sandboxes()
        assert sandboxes
        kill(flow)
        run = flow.finish()
        flow.assert_gone(sandboxes)
    assert len(bodies(run)) == width
    assert "Traceback" not in run.output
    return run.returncode


@functools.cache
def local_exit_code(kill: Kill, width: int) -> int:
    """Exit code of the same run without sandboxes after the same kill."""
    with running(width, sandboxed=False) as flow:
        kill(flow)
        return flow.finish().returncode


def press_ctrl_c(flow: LiveFlow) -> None:
    """What a terminal does."""
    flow.interrupt()


def terminate_scheduler(flow: LiveFlow) -> None:
    """What systemd and CI systems do."""
    flow.kill("scheduler", signal.SIGTERM)


def hang_up_scheduler(flow: LiveFlow) -> None:
    """What happens when a terminal is closed."""
    flow.kill("scheduler", signal.SIGHUP)


def kill_scheduler(flow: LiveFlow) -> None:
    """What the out-of-memory killer does."""
    flow.kill("scheduler")


def kill_step(flow: LiveFlow) -> None:
    """The task's process itself, which every run has."""
    flow.kill("step")


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("kill", [press_ctrl_c, terminate_scheduler, hang_up_scheduler, kill_scheduler])
def test_the_end_of_the_run_is_the_end_of_everything(kill: Kill, width: int) -> None:
    """Guards against sandboxes and their daemons that outlive the run, and exit codes of our own."""
    assert ended_by(kill, width) == local_exit_code(kill, width)


def test_impatience() -> None:
    """Guards against a second Ctrl-C that leaves behind what the first one was cleaning up."""

    def press_twice(flow: LiveFlow) -> None:
        flow.interrupt()
        flow.wait_for("Terminating 3 active tasks")
        flow.interrupt()

    assert ended_by(press_twice, 3) == local_exit_code(press_ctrl_c, 3)


@pytest.mark.parametrize("role", ["scheduler", "supervisor"])
@pytest.mark.parametrize("moment", [0.0, 0.1, 0.3, 0.6])
def test_any_moment_will_do(role: str, moment: float) -> None:
    """Guards the moments in which something is made and nobody has noted it yet."""
    arguments = ("run", "--width", "3", *SANDBOXED, *RETRIED)
    with live_flow("life_flow.py", *arguments) as flow:
        flow.the("supervisor")
        time.sleep(moment)
        sandboxes = flow.sandboxes()
        flow.kill(role)
        run = flow.finish()
        flow.assert_gone(sandboxes)
    assert "Traceback" not in run.output
    assert run.returncode == (0 if role == "supervisor" else -signal.SIGKILL), run.output
    assert len(set(bodies(run))) == len(bodies(run))


@pytest.mark.parametrize("role", ["shim", "guest", "step", "outer bwrap", "inner bwrap", "supervisor"])
def test_a_killed_part_is_a_killed_task(role: str) -> None:
    """Guards against a task that hangs, passes or is run again when a part of it is killed."""
    assert ended_by(lambda flow: flow.kill(role), 1) == local_exit_code(kill_step, 1)


@pytest.mark.parametrize("role", ["step", "supervisor"])
def test_siblings_of_a_killed_task_end_with_the_run(role: str) -> None:
    """Guards against siblings in a foreach that go on after the run has failed."""
    assert ended_by(lambda flow: flow.kill(role), 3) == local_exit_code(kill_step, 3)


@pytest.mark.parametrize("role", ["shim", "guest", "step", "outer bwrap", "inner bwrap", "supervisor"])
def test_retry_makes_a_run_whole(role: str) -> None:
    """Guards against a @retry that finds no supervisor, and against attempts that run twice."""
    with running(2, seconds=3, retried=True) as flow:
        sandboxes = flow.sandboxes()
        flow.kill(role)
        run = flow.finish()
        flow.assert_gone(sandboxes)
    assert run.returncode == 0, run.output
    assert "results [0, 10]" in run.output
    again = [line for line in bodies(run) if line.endswith("attempt 1")]
    # The supervisor takes all that run down with it, the others only their own task.
    assert len(again) == (2 if role == "supervisor" else 1)
    assert len(bodies(run)) == 2 + len(again)


@pytest.mark.parametrize("role", ["reaper", "warden"])
def test_a_run_goes_on_without_who_cleans_up(role: str) -> None:
    """Guards against a run that depends on a process that only cleans up behind others."""
    with running(1, seconds=1) as flow:
        sandboxes = flow.sandboxes()
        flow.kill(role)
        run = flow.finish()
        flow.assert_gone(sandboxes)
    assert run.returncode == 0, run.output
    assert bodies(run) == ["0 runs as attempt 0"]


def test_the_scheduler_cleans_up_for_a_killed_reaper() -> None:
    """Guards against leftovers when supervisor and reaper are killed together, as by a memory limit."""

    def kill_both(flow: LiveFlow) -> None:
        supervisor = flow.the("supervisor").pid
        flow.kill("reaper")
        os.kill(supervisor, signal.SIGKILL)

    assert ended_by(kill_both, 2) == local_exit_code(kill_step, 2)


@pytest.mark.parametrize("kill", [press_ctrl_c, kill_scheduler])
def test_a_hung_supervisor_is_ended_with_the_run(kill: Kill) -> None:
    """Guards against sandboxes kept alive by a supervisor that no longer reacts."""

    def hang_and_kill(flow: LiveFlow) -> None:
        flow.kill("supervisor", signal.SIGSTOP)
        kill(flow)

    assert ended_by(hang_and_kill, 2) == local_exit_code(kill, 2)


def test_a_supervisor_that_was_only_slow_loses_nothing() -> None:
    """Guards against tasks that are given up, or run again, because the supervisor paused."""
    with running(2, seconds=1) as flow:
        pid = flow.kill("supervisor", signal.SIGSTOP)
        # Longer than the steps take, which now wait to be heard.
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        run = flow.finish()
        flow.assert_gone()
    assert run.returncode == 0, run.output
    assert bodies(run) == ["0 runs as attempt 0", "1 runs as attempt 0"]


def test_a_supervisor_killed_between_tasks_is_started_again() -> None:
    """Guards against a run that fails at its next sandboxed step, where no task was harmed."""
    with live_directory() as root:
        gate = root / "gate"
        with live_flow("interlude_flow.py", "run", "--gate", str(gate), root=root) as flow:
            flow.wait_for("] interlude")
            first = flow.kill("supervisor")
            flow.until(lambda: not flow.of_role("reaper"), "the reaper's end")
            gate.touch()
            run = flow.finish()
            flow.end()
            gate.unlink()
            flow.assert_gone()
    assert run.returncode == 0, run.output
    assert first
    assert "] before" in run.output
    assert "] after" in run.output


def test_a_run_leaves_another_in_its_directory_alone() -> None:
    """Guards against runs that share a name, a directory or a sandbox, and a reaper that takes all."""
    with live_directory() as root:
        flow = place_flow("life_flow.py", root / "flow")
        (root / "flow" / ".metaflow").mkdir()  # of two that make it at once Metaflow ends one
        arguments = ("run", *SANDBOXED, "--seconds", "4")
        victim = LiveFlow(flow, root, arguments, {})
        other = LiveFlow(flow, root, arguments, {})
        try:
            victim.wait_for("runs as attempt 0")
            other.wait_for("runs as attempt 0")
            sandboxes = other.sandboxes()
            assert len(sandboxes) == 2
            os.kill(victim.process.pid, signal.SIGKILL)
            run = other.finish()
            other.assert_gone(sandboxes)
        finally:
            victim.end()
            other.end()
    assert run.returncode == 0, run.output
    assert "results [0]" in run.output
    assert bodies(run) == ["0 runs as attempt 0"]


# --- failures of the provider -------------------------------------------------------------------


def scripted_run(
    script: dict[str, object], *arguments: str, seconds: float = 0, env: dict[str, str] | None = None
) -> tuple[FlowRun, int]:
    """A run on the scripted backend, and how often the body's code ran."""
    with live_directory() as root:
        played = {"pretend": ["MOUNT", "NETWORK_OFF"], **script}
        (root / "script.json").write_text(json.dumps(played))
        count = root / "count"
        count.touch()
        environment = {"METAFLOW_SANDBOX_SCRIPT": str(root / "script.json"), **(env or {})}
        words = ["run", "--count", str(count), "--seconds", str(seconds), *arguments]
        with live_flow("scripted_life_flow.py", *words, root=root, env=environment) as flow:
            run = flow.finish()
            executed = len(count.read_text().splitlines())
            for file in (root / "script.json", count):
                file.unlink()
            flow.assert_gone()
    assert "Traceback" not in run.output
    return run, executed


QUOTA = {"error": "QuotaExceeded", "message": "no more for now", "retry_after": 0.05}
FAILED = {"error": "StartFailed", "message": "the machine is full"}
LOST = {"error": "SandboxLost", "message": "the machine is gone"}


def test_failures_before_user_code_are_tried_again() -> None:
    """Guards against a provider's hiccup that fails a task of which nothing has run."""
    run, executed = scripted_run({"open_failures": [QUOTA, FAILED]})
    assert run.returncode == 0, run.output
    assert executed == 1
    # Waiting for room is no failure, and so short that nobody needs to know.
    assert run.output.count("No user code has run: trying again") == 1
    assert "the machine is full" in run.output


def test_a_command_that_does_not_start_is_tried_again() -> None:
    """Guards against giving up when the sandbox stood and its first command could not be started."""
    run, executed = scripted_run({"start_failures": [LOST, FAILED]})
    assert run.returncode == 0, run.output
    assert executed == 1


def test_tries_are_bounded() -> None:
    """Guards against trying for ever, and against hiding the provider's reason."""
    run, executed = scripted_run(
        {"open_failures": [FAILED] * 3}, env={"METAFLOW_SANDBOX_MAX_INFRA_RETRIES": "1"}
    )
    assert run.returncode == 1
    assert executed == 0
    assert run.output.count("trying again") == 1
    assert "StartFailed: the machine is full" in run.output


def test_no_second_try_where_none_is_wanted() -> None:
    """Guards against a setting of 0 that is taken for unset."""
    run, executed = scripted_run({"open_failures": [FAILED]}, env={"METAFLOW_SANDBOX_MAX_INFRA_RETRIES": "0"})
    assert (run.returncode, executed) == (1, 0)
    assert "trying again" not in run.output


def test_nothing_is_tried_again_once_user_code_ran() -> None:
    """Guards against running a step twice because its sandbox was lost under it."""
    run, executed = scripted_run({"lost_after": 3.0}, seconds=FOREVER)
    assert (run.returncode, executed) == (1, 1)
    assert "SandboxLost" in run.output
    assert "trying again" not in run.output


def test_retry_decides_once_user_code_ran() -> None:
    """Guards against a lost sandbox that @retry does not see."""
    run, executed = scripted_run({"lost_after": 3.0}, *RETRIED, seconds=FOREVER)
    assert run.returncode == 0, run.output
    assert executed == 2


def test_user_code_waits_until_the_launcher_knows() -> None:
    """Guards against code that runs before the launcher has noted it, and would run it again."""
    bootstrap = Path(guest.__file__).with_name("bootstrap.py")
    with live_directory() as root, socket.socket(socket.AF_UNIX) as relay:
        relay.bind(str(root / "relay"))
        relay.listen()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(bootstrap), "--", "touch", str(root / "ran")],
            env={"METAFLOW_SANDBOX_RELAY": f"unix:{root / 'relay'}", "PATH": os.environ["PATH"]},
        )
        connection, _ = relay.accept()
        assert b"started" in connection.recv(100)
        connection.close()
        assert process.wait() != 0
        assert not (root / "ran").exists()


def test_a_run_killed_at_once_leaves_no_directory(tmp_path: Path) -> None:
    """Guards against the directory of a run whose scheduler died while its supervisor started."""
    directory = tmp_path / "run"
    directory.mkdir()
    main = Path(supervisor.__file__).with_name("main.py")
    subprocess.run([sys.executable, "-I", str(main), str(directory)], stdin=subprocess.DEVNULL, check=True)
    assert not directory.exists()
