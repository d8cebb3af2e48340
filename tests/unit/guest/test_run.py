"""The first process in a sandbox: its bootstrap, run for real, against a real relay."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox import guest
from metaflow_extensions.sandbox.guest.client import ADDRESS_VARIABLE
from metaflow_extensions.sandbox.guest.run import copy_code

from ..relay.parts import WAIT, Bench, settle, short_directory

BOOTSTRAP = Path(guest.__file__).with_name("bootstrap.py")


class Launcher:
    """A relay that listens, and bootstraps that are started on it."""

    def __init__(self, place: Path) -> None:
        self.bench = Bench(place)
        self.place = place / "work"
        self.place.mkdir()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place / "relay"))
        self.listener.listen()
        self.address = f"unix:{place / 'relay'}"
        self.accepting = True

    def accept(self) -> None:
        """Serve one guest."""
        self.bench.relay.accept(self.listener.accept()[0])

    def start(self, *command: str, code: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a bootstrap and serve it."""
        accepting = threading.Thread(target=self.accept)
        if self.accepting:
            accepting.start()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(BOOTSTRAP), *([str(code)] if code else []), "--", *command],
            cwd=self.place,
            env={ADDRESS_VARIABLE: self.address, "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if self.accepting:
            accepting.join(WAIT)
        return process

    def python(self, script: str) -> subprocess.Popen[bytes]:
        """Start a bootstrap for a script."""
        return self.start(sys.executable, "-c", script)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with short_directory() as place:
        made = Launcher(place)
        yield made
        made.bench.relay.close()
        made.listener.close()


def finish(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=WAIT)
    return process.returncode, out, err


@pytest.mark.parametrize("code", [0, 1, 42, 127, 202, 255])
def test_exit_codes(launcher: Launcher, code: int) -> None:
    """Guards against an exit code that is changed on its way, or taken for a signal."""
    assert finish(launcher.python(f"print('out'); raise SystemExit({code})")) == (code, b"out\n", b"")
    settle(lambda: len(launcher.bench.observer.said) == 3)
    starting, started, (ended, number, memory, seconds) = launcher.bench.observer.said
    assert (starting, started, ended, number) == ("starting", "started", "ended", None)
    assert memory > 1
    assert seconds >= 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_a_signal(launcher: Launcher, number: int) -> None:
    """Guards against a signal that is taken for an exit code."""
    assert finish(launcher.python(f"import os; os.kill(os.getpid(), {int(number)})"))[0] == 128 + number
    settle(lambda: len(launcher.bench.observer.said) == 3)
    assert launcher.bench.observer.said[2][:2] == ("ended", number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_delivered(launcher: Launcher, number: int) -> None:
    """Guards against a step that does not hear of Ctrl-C."""
    process = launcher.python(
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert launcher.bench.relay.lifecycle.signal(number)
    assert finish(process)[0] == 7


def test_signals_that_are_not_for_steps(launcher: Launcher) -> None:
    """Guards against numbers that a guest must not deliver, such as SIGSTOP or none."""
    process = launcher.python("import time; print('ready', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    for number in (0, signal.SIGSTOP, signal.SIGKILL, 64, 1 << 20):
        assert launcher.bench.relay.lifecycle.signal(number)
    assert launcher.bench.relay.lifecycle.signal(signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGTERM


def test_a_command_that_is_not_there(launcher: Launcher) -> None:
    """Guards against a missing interpreter without a message."""
    code, _, err = finish(launcher.start("no-such-command"))
    assert code == 127
    assert b"cannot start no-such-command" in err


def test_the_code(launcher: Launcher, tmp_path: Path) -> None:
    """Guards against code that arrives without its folders, bytes or permissions, or is read-only."""
    code = tmp_path / "code"
    (code / "package" / "empty").mkdir(parents=True)
    (code / "flow.py").write_text("print('flow')")
    (code / "package" / "data.bin").write_bytes(os.urandom(3_000_000))
    (code / "run.sh").write_text("")
    (code / "run.sh").chmod(0o755)
    (code / "locked").write_text("x")
    (code / "locked").chmod(0o400)
    assert finish(launcher.start(sys.executable, "flow.py", code=code)) == (0, b"flow\n", b"")
    copied = {path.relative_to(launcher.place) for path in launcher.place.rglob("*")}
    assert copied == {path.relative_to(code) for path in code.rglob("*")}
    assert (launcher.place / "package/data.bin").read_bytes() == (code / "package/data.bin").read_bytes()
    assert (launcher.place / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (launcher.place / "locked").stat().st_mode & 0o777 == 0o600


def test_an_empty_tree(tmp_path: Path) -> None:
    """Guards against a flow without any file of its own."""
    (tmp_path / "code").mkdir()
    copy_code(str(tmp_path / "code"), str(tmp_path / "target"))
    assert list((tmp_path / "target").iterdir()) == []


def test_a_launcher_that_is_gone(launcher: Launcher) -> None:
    """Guards against user code that runs before the launcher knows, and might be run again."""
    launcher.accepting = False
    process = launcher.python("open('ran', 'w')")
    launcher.listener.accept()[0].close()
    assert finish(process)[0] == 1
    assert list(launcher.place.iterdir()) == []


def test_a_launcher_that_goes(launcher: Launcher) -> None:
    """Guards against a guest that spins, or dies before its step, when the relay is closed."""
    process = launcher.python(
        "print('ready', flush=True); import time; time.sleep(0.5); print(time.process_time() < 5)"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    launcher.bench.relay.close()
    code, out, err = finish(process)
    assert (code, out) == (0, b"True\n")
    assert b"the launcher is gone" in err or err == b""


def test_the_relay_is_not_inherited(launcher: Launcher) -> None:
    """Guards against a step that holds the guest's own connection."""
    script = """if True:
        import os
        for number in range(3, 64):
            if os.path.lexists(f'/proc/self/fd/{number}'):
                print(os.readlink(f'/proc/self/fd/{number}'))
        """
    code, out, _ = finish(launcher.python(script))
    assert (code, b"socket:" in out) == (0, False)


def test_orphans_do_not_hold_the_guest(launcher: Launcher) -> None:
    """Guards against a guest that waits for what the step left running."""
    script = (
        "import os, time\nif os.fork() == 0:\n    os.close(1); os.close(2); time.sleep(3)\n    os._exit(0)\n"
    )
    assert finish(launcher.python(script))[0] == 0


def test_no_relay(tmp_path: Path) -> None:
    """Guards against a guest that runs a step without its launcher."""
    for address in (f"unix:{tmp_path / 'none'}", "tcp:x"):
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(BOOTSTRAP), "--", "touch", str(tmp_path / "ran")],
            env={ADDRESS_VARIABLE: address},
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


# --- what a failed step left, and terminals ---------------------------------------------------


def keeping(launcher: Launcher, script: str) -> subprocess.Popen[bytes]:
    """Start a bootstrap whose step is kept when it fails."""
    launcher.bench.relay.lifecycle._keep = True
    return launcher.python(script)


def test_a_failed_step_is_kept_until_a_signal(launcher: Launcher) -> None:
    """Guards against a sandbox that goes before anybody could look, or never, or with another exit code."""
    process = keeping(launcher, "raise SystemExit(7)")
    settle(lambda: "kept" in launcher.bench.observer.said)
    assert process.poll() is None
    assert launcher.bench.relay.lifecycle.signal(signal.SIGTERM)
    assert process.wait(WAIT) == 7


def test_a_kept_step_goes_with_its_launcher(launcher: Launcher) -> None:
    """Guards against what stays for ever once nobody can look any more."""
    process = keeping(launcher, "raise SystemExit(7)")
    settle(lambda: "kept" in launcher.bench.observer.said)
    launcher.bench.relay.close()
    assert process.wait(WAIT) == 7


def test_a_step_that_succeeds_is_not_kept(launcher: Launcher) -> None:
    """Guards against runs that wait behind every step."""
    process = keeping(launcher, "pass")
    assert process.wait(WAIT) == 0
    assert "kept" not in launcher.bench.observer.said


@pytest.mark.parametrize("script", ["import time; time.sleep(600)", "raise SystemExit(7)"])
def test_a_terminal(launcher: Launcher, script: str) -> None:
    """Guards against a shell that is elsewhere than the step, or disturbs it, while it runs and when kept."""
    process = keeping(launcher, script)
    mine, theirs = socket.socketpair()
    mine.settimeout(WAIT)
    settle(lambda: launcher.bench.relay.lifecycle._channel is not None)
    threading.Thread(target=launcher.accept).start()
    with mine:
        assert launcher.bench.relay.lifecycle.open_terminal(theirs, "dumb", 33, 77)
        mine.sendall(b"echo $((40 + 2)) $TERM; pwd; stty size; exit\n")
        shown = b""
        while data := mine.recv(4096):
            shown += data
    assert b"42 dumb" in shown
    assert str(launcher.place).encode() in shown
    assert b"33 77" in shown
    assert process.poll() is None
    assert launcher.bench.relay.lifecycle.signal(signal.SIGTERM)
    assert process.wait(WAIT) in (7, 128 + signal.SIGTERM)
