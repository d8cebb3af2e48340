"""Daytona's traps over its stand-in: lost answers, quotas, states, the end of sandboxes, and the key."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.cgroups import available
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec, Stream
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    QuotaExceeded,
    SandboxLost,
    StartFailed,
    UnsupportedOption,
)
from metaflow_extensions.sandbox.testing.parts import launcher, leaks

from .daytona import KEY, DaytonaServer, daytona_server
from .waiting import until

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

from metaflow_extensions.sandbox.backends.daytona import creation, process, toolbox
from metaflow_extensions.sandbox.backends.daytona.backend import DaytonaBackend
from metaflow_extensions.sandbox.backends.daytona.parameters import AUTO_STOP
from metaflow_extensions.sandbox.backends.daytona.sandbox import DaytonaSandbox

SLEEP = ["python3", "-c", "import os, time; os.write(1, b'up'); time.sleep(600)"]
LINES = """
import sys, time
for number in range(int(sys.argv[1])):
    print(number, flush=True)
    time.sleep(0.002)
"""
PATIENCE = 30.0  # seconds


@pytest.fixture(scope="module")
def server() -> Iterator[DaytonaServer]:
    """For all tests."""
    with daytona_server() as running:
        yield running


@pytest.fixture
def backend(server: DaytonaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaytonaBackend]:
    """The backend, with nothing left at the end of each test."""
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    yield DaytonaBackend()
    until(lambda: server.sandboxes() == [])


@contextlib.contextmanager
def opened(backend: DaytonaBackend, **changes: Any) -> Iterator[DaytonaSandbox]:
    """A sandbox, closed at the end."""
    sandbox = backend.open(SandboxSpec(**changes))
    try:
        yield sandbox
    finally:
        sandbox.close()


def run(sandbox: DaytonaSandbox, code: str, *arguments: str) -> tuple[int, bytes]:
    """Exit code and stdout of Python code."""
    process = sandbox.start(Command(["python3", "-c", code, *arguments]))
    said = b"".join(chunk.data for chunk in process.output() if chunk.stream is Stream.STDOUT)
    return process.wait(), said


# --- settings -------------------------------------------------------------------------------------


def test_without_a_key_the_setting_is_named(backend: DaytonaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an SDK's traceback where a setting is missing."""
    monkeypatch.delenv("DAYTONA_API_KEY")
    for attempt in (backend.check, lambda: backend.open(SandboxSpec())):
        with pytest.raises(BackendUnavailable, match="set DAYTONA_API_KEY"):
            attempt()


def test_a_wrong_key_is_told_before_anything_is_made(
    backend: DaytonaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against retries of what can't succeed, and a key in a message."""
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_wrong")
    for attempt in (backend.check, lambda: backend.open(SandboxSpec())):
        with pytest.raises(BackendUnavailable, match="check DAYTONA_API_KEY") as caught:
            attempt()
        assert "dtn_wrong" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/elsewhere"], ids=["nobody", "another service"])
def test_a_wrong_url_is_told(
    backend: DaytonaBackend, server: DaytonaServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Guards against a missing route that looks like a missing image, and a refused connection like a bug."""
    monkeypatch.setenv("DAYTONA_API_URL", f"{server.url}{path}" if path else "http://127.0.0.1:9/api")
    for attempt in (backend.check, lambda: backend.open(SandboxSpec())):
        with pytest.raises(BackendUnavailable, match="check DAYTONA_API_URL"):
            attempt()


def test_the_key_stays_outside(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards the key: not in any environment, file or command line of the sandbox, nor in one of ours."""
    code = """
import glob, os, sys
found = []
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline") + glob.glob(
    "/var/tmp/**", recursive=True
):
    try:
        if os.path.isfile(path) and sys.argv[1].encode()[::-1] in open(path, "rb").read():
            found.append(path)
    except (FileNotFoundError, ProcessLookupError):
        pass  # gone in the meantime
print(found)
"""
    with opened(backend) as sandbox:
        assert run(sandbox, code, KEY[::-1]) == (0, b"[]\n")
        # The stand-in is told the key that it accepts; the other is the warden, at least.
        ours = [pid for pid, _ in leaks.descendants() if pid != server.process.pid]
        assert ours
        assert not any(KEY.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in ours)


def test_secrets_of_a_command_are_in_no_file(backend: DaytonaBackend) -> None:
    """Guards the environment of a step: its job is a file only until it is read, in a private directory."""
    code = """
import glob, os
names = filter(os.path.isfile, glob.glob("/var/tmp/metaflow-sandbox/control/**", recursive=True))
print(any(os.environ["SECRET"].encode() in open(name, "rb").read() for name in names),
      oct(os.stat("/var/tmp/metaflow-sandbox/control").st_mode & 0o777))
"""
    with opened(backend) as sandbox:
        process = sandbox.start(Command(["python3", "-c", code], env={"SECRET": "contract-secret"}))
        assert b"".join(chunk.data for chunk in process.output()) == b"False 0o700\n"


# --- creating -------------------------------------------------------------------------------------


def test_what_is_asked_for(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards units, labels and the ends that Daytona sees to by itself."""
    changes = {"image": "python:3.12-slim", "cpu": 2, "memory": 4096, "disk": 1024, "lifetime": 600}
    with opened(backend, labels={"step": "train"}, options={"target": "eu"}, **changes) as sandbox:
        asked = server.created()[-1]
    assert asked["labels"] == {
        "metaflow-sandbox": sandbox.id,
        "metaflow-sandbox.label.step": "train",
        "code-toolbox-language": "python",
    }
    assert asked["buildInfo"]["dockerfileContent"] == "FROM python:3.12-slim\n"
    named = ("name", "cpu", "memory", "disk", "networkBlockAll", "target")
    assert [asked[name] for name in named] == [sandbox.id, 2, 4, 1, True, "eu"]
    assert (asked["autoStopInterval"], asked["autoDeleteInterval"], asked["ttlMinutes"]) == (15, 0, 15)


@pytest.mark.parametrize(
    ("network", "asked"),
    [
        ("public", {"networkBlockAll": False}),
        (("example.org", "*.example.net"), {"domainAllowList": "example.org,*.example.net"}),
        (("10.0.0.0/8", "1.2.3.4"), {"networkAllowList": "10.0.0.0/8,1.2.3.4/32"}),
    ],
    ids=str,
)
def test_networks(
    backend: DaytonaBackend, server: DaytonaServer, network: str | tuple[str, ...], asked: dict[str, Any]
) -> None:
    """Guards against a list of hosts that opens or blocks everything."""
    with opened(backend, network=network):
        told = server.created()[-1]
    names = ("networkBlockAll", "domainAllowList", "networkAllowList")
    assert {name: told[name] for name in names if told.get(name) is not None} == asked


@pytest.mark.parametrize("network", ["none", ("example.org",), ("10.0.0.0/8",)], ids=str)
def test_a_wall_that_is_not_there_is_refused(
    backend: DaytonaBackend, server: DaytonaServer, network: str | tuple[str, ...]
) -> None:
    """Guards a step against an installation that does not know the wall, and makes a sandbox without it."""
    with server.failing(walls=False), pytest.raises(UnsupportedOption, match="without"):
        backend.open(SandboxSpec(network=network))
    with server.failing(walls=False), opened(backend, network="public"):
        pass


def test_volumes(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards where volumes are mounted, and a message for one that does not exist."""
    volumes = {"/data": "models", "/mine": {"volume": "shared", "subpath": "me"}}
    with opened(backend, options={"volumes": volumes}):
        asked = server.created()[-1]["volumes"]
    assert [(one["volumeId"], one["mountPath"], one.get("subpath")) for one in asked] == [
        ("models", "/data", None),
        ("shared", "/mine", "me"),
    ]
    with pytest.raises(UnsupportedOption, match="no-such-volume"):
        backend.open(SandboxSpec(options={"volumes": {"/data": "no-such-volume"}}))


def test_a_snapshot_in_place_of_an_image(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards the option, and what can't go with it."""
    with opened(backend, options={"snapshot": "mine"}) as sandbox:
        assert server.created()[-1]["snapshot"] == "mine"
        assert run(sandbox, "print(1)") == (0, b"1\n")
    for changes in ({"cpu": 1}, {"image": "python"}):
        with pytest.raises(UnsupportedOption, match="leave out"):
            backend.open(SandboxSpec(options={"snapshot": "mine"}, **changes))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOption, match="no-such-snapshot"):
        backend.open(SandboxSpec(options={"snapshot": "no-such-snapshot"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory": 1500}, "memory=2048"),
        ({"cpu": 0.5}, "cpu=1"),
        ({"disk": 100}, "disk=1024"),
        ({"image": "python\nRUN curl"}, "not a name"),
        ({"network": ("example.org", "10.0.0.0/8")}, "not both"),
        ({"network": ("2001:db8::/32",)}, "IPv4"),
        ({"options": {"volumes": {"relative": "id"}}}, "volumes"),
        ({"options": {"volumes": {"/data": {"volume": "id", "prefix": "me"}}}}, "volumes"),
    ],
    ids=str,
)
def test_what_daytona_has_not_is_refused(backend: DaytonaBackend, changes: dict[str, Any], said: str) -> None:
    """Guards against a limit that is rounded away, and an image's name that is a Dockerfile."""
    with pytest.raises(UnsupportedOption, match=said):
        backend.open(SandboxSpec(**changes))


def test_a_build_is_shown(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against minutes without a word, and a limit of time that does not count the build."""
    told: list[str] = []
    with server.failing(build=1.5), opened(backend, tell=told.append) as sandbox:
        assert run(sandbox, "print(1)") == (0, b"1\n")
    assert "#2 DONE" in "\n".join(told)


@pytest.mark.parametrize("image", ["/no/such/image", "UPPER"])
def test_an_image_that_does_not_exist(backend: DaytonaBackend, image: str) -> None:
    """Guards against retries of what can't succeed, and a sandbox left in an error state."""
    with pytest.raises(UnsupportedOption, match=image):
        backend.open(SandboxSpec(image=image))


def test_a_sandbox_that_does_not_come_up(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against a provider's trouble that counts as the user's, and a sandbox left behind."""
    with server.failing(boot="runner lost"), pytest.raises(StartFailed, match="runner lost"):
        backend.open(SandboxSpec())


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", None)])
def test_too_many_requests(
    backend: DaytonaBackend, server: DaytonaServer, header: str, seconds: float | None
) -> None:
    """Guards what the queue needs to know: that it is to wait, and how long."""
    with server.failing(busy=1, retry_after=header), pytest.raises(QuotaExceeded) as caught:
        backend.open(SandboxSpec())
    assert caught.value.retry_after == seconds


def test_quotas_are_known_by_their_words(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against a full account that looks like a wrong key, and a size that never fits like that."""
    with server.failing(quota="Total CPU limit exceeded. Maximum allowed: 10."), pytest.raises(QuotaExceeded):
        backend.open(SandboxSpec())
    said = "CPU request 64 exceeds maximum allowed per sandbox (4)"
    with server.failing(quota=said), pytest.raises(UnsupportedOption, match="per sandbox"):
        backend.open(SandboxSpec())


def test_a_lost_answer_makes_one_sandbox(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against an orphan, and a second sandbox, when the creation was committed and its answer lost."""
    before = len(server.created())
    with server.failing(lost_create=1), opened(backend) as sandbox:
        assert [found["name"] for found in server.sandboxes()] == [sandbox.id]
        assert run(sandbox, "print(1)") == (0, b"1\n")
    assert len(server.created()) == before + 1


def test_what_is_made_after_the_last_look_goes(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against an orphan of a call that was answered 502 and comes to something later still."""
    code = """
import sys
from metaflow_extensions.sandbox.backends.daytona import creation
from metaflow_extensions.sandbox.backends.daytona.backend import DaytonaBackend
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.errors import StartFailed
creation.SETTLED = 0.2
try:
    DaytonaBackend().open(SandboxSpec())
except StartFailed:
    print("failed", flush=True)
sys.stdin.read()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code]
    with (
        server.failing(late_create=2.0),
        subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout
        assert other.stdout.readline() == b"failed\n"
        assert server.sandboxes() == []
        until(server.sandboxes)
        other.communicate()
    until(lambda: server.sandboxes() == [])


def test_no_answer_in_time_leaves_no_sandbox(
    backend: DaytonaBackend, server: DaytonaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards our own deadline, and that what was made meanwhile goes."""
    monkeypatch.setattr(creation, "FROM_IMAGE", 1.0)
    with server.failing(mute=5.0), pytest.raises(StartFailed, match=r"too long|within 1 s"):
        backend.open(SandboxSpec())


def test_an_alarm_of_the_caller_stays(backend: DaytonaBackend) -> None:
    """Guards @timeout: in the main thread the SDK would cancel its alarm."""
    assert threading.current_thread() is threading.main_thread()
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 600)
        with opened(backend):
            pass
        assert signal.setitimer(signal.ITIMER_REAL, 0)[0] > 0
    finally:
        signal.signal(signal.SIGALRM, before)


# --- running --------------------------------------------------------------------------------------


def test_no_line_is_lost_or_doubled(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards output under calls that fail before or after their work was done."""
    with opened(backend) as sandbox:
        process = sandbox.start(Command(["python3", "-c", LINES, "500"]))
        said = b""
        for number, chunk in enumerate(process.output()):
            said += chunk.data
            if number < 6:
                fault = {"calls": 1} if number % 2 else {"lost_calls": 1}
                server.ask("POST", "/faults", fault)
        server.ask("POST", "/faults", {})
        assert process.wait() == 0
    assert said.split() == [b"%d" % number for number in range(500)]


def test_no_input_is_lost_or_doubled(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards input under the same, at a command that is started once only."""
    data = bytes(range(251)) * 20_000
    code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    with opened(backend) as sandbox, server.failing(lost_calls=3):
        process = sandbox.start(Command(["python3", "-c", code], stdin=True))
        for at in range(0, len(data), 300_000):
            process.send(data[at : at + 300_000])
            if at == 1_200_000:
                server.ask("POST", "/faults", {"lost_calls": 2})
        process.send(b"")
        said = b"".join(chunk.data for chunk in process.output())
    assert said.decode().strip() == hashlib.sha256(data).hexdigest()


def test_calls_that_are_too_many_wait(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards a step that works against the limit of calls a minute, which 100 of them may reach."""
    with server.failing(busy_calls=3, retry_after="0.5"), opened(backend) as sandbox:
        begin = time.monotonic()
        assert run(sandbox, "print(1)") == (0, b"1\n")
        # At least the three times that it was told to wait.
        assert time.monotonic() - begin >= 1.5


def test_a_call_that_is_refused_is_not_repeated(
    backend: DaytonaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against minutes of waiting for what can't succeed: a place that can't be written to."""
    monkeypatch.setattr(toolbox, "UPLOADS", {"/proc/here/file": b""})
    with opened(backend) as sandbox, pytest.raises(StartFailed, match="/proc/here"):
        sandbox.start(Command(["true"]))


@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_output_that_nobody_reads_does_not_hide_the_end(backend: DaytonaBackend, end: str) -> None:
    """Guards who only waits: of more output than is held here, the rest would be asked for never."""
    code = "import os, sys; [os.write(1, bytes(65536)) for _ in range(int(sys.argv[1]))]"
    with opened(backend) as sandbox:
        process = sandbox.start(Command(["python3", "-c", code, "100" if end == "by itself" else "10000"]))
        if end == "killed":
            time.sleep(2)  # until it is blocked
            process.kill()
        assert process.wait() == (0 if end == "by itself" else 137)


def test_a_start_whose_answer_was_lost_runs_once(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards the promise that nothing of the user's runs twice."""
    code = "open('ran', 'a').write('x'); print(open('ran').read())"
    with opened(backend) as sandbox:
        assert run(sandbox, "print(1)") == (0, b"1\n")
        with server.failing(lost_calls=2):
            assert run(sandbox, code) == (0, b"x\n")


def test_small_calls_are_put_together(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards the way to a far sandbox: a hundred sends must not take a hundred round trips."""
    code = "import sys; print(len(sys.stdin.buffer.read()))"
    with opened(backend) as sandbox, server.failing(delay=0.2):
        process = sandbox.start(Command(["python3", "-c", code], stdin=True))
        begin = time.monotonic()
        for _ in range(100):
            process.send(b"x" * 10)
        process.send(b"")
        assert b"".join(chunk.data for chunk in process.output()) == b"1000\n"
        # A ratio to one round trip, with much room.
        assert time.monotonic() - begin < 50 * 0.2


@pytest.mark.parametrize("way", ["vanish", "starve"])
def test_a_sandbox_that_goes_is_lost(
    backend: DaytonaBackend, server: DaytonaServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Guards against an exit code for what nobody knows, and waiting for ever for a daemon that is dead."""
    monkeypatch.setattr(toolbox.Toolbox._repeated, "__defaults__", (2.0,))
    monkeypatch.setitem(toolbox.Toolbox.ask.__kwdefaults__, "patience", 2.0)
    with opened(backend) as sandbox:
        process = sandbox.start(Command(SLEEP))
        output = process.output()
        assert next(output).data == b"up"
        server.ask("POST", f"/{way}/{sandbox.id}")
        with pytest.raises(SandboxLost, match="destroyed" if way == "vanish" else "out of memory"):
            list(output)
        with pytest.raises(SandboxLost):
            sandbox.start(Command(["true"]))


def test_a_step_that_kills_its_holder_is_lost(backend: DaytonaBackend) -> None:
    """Guards against a step that forges its exit code by ending what reports it."""
    code = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    with opened(backend) as sandbox, pytest.raises(SandboxLost, match="ended there"):
        run(sandbox, code)


@pytest.mark.skipif("memory" not in available(), reason="no cgroup of memory")
def test_memory_is_limited(backend: DaytonaBackend) -> None:
    """Guards the unit: 1024 MiB are one GiB, which 700 MiB fit in, and 1500 do not."""
    code = "import sys; block = b'x' * (int(sys.argv[1]) << 20); print(len(block) >> 20)"
    with opened(backend, memory=1024) as sandbox:
        assert run(sandbox, code, "700") == (0, b"700\n")
        assert run(sandbox, code, "1500")[0] == 137


def test_an_image_without_python_is_told(backend: DaytonaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the message that every user of a slim image meets first."""
    monkeypatch.setattr(toolbox, "PYTHON", "no-such-python3")
    with opened(backend) as sandbox, pytest.raises(UnsupportedOption, match="image has no"):
        sandbox.start(Command(["true"]))


def test_large_files_both_ways(backend: DaytonaBackend, tmp_path: Path) -> None:
    """Guards copies beyond the size of one answer."""
    data = os.urandom(9 << 20)
    (tmp_path / "source").write_bytes(data)
    with opened(backend) as sandbox:
        sandbox.put(tmp_path / "source", PurePosixPath("/opt/data/file"))
        sandbox.get(PurePosixPath("/opt/data/file"), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


def test_a_copy_whose_answer_was_lost(backend: DaytonaBackend, server: DaytonaServer, tmp_path: Path) -> None:
    """Guards against a copy that is made again from what the first has moved."""
    (tmp_path / "source").write_bytes(b"content")
    with opened(backend) as sandbox:
        assert run(sandbox, "print(1)") == (0, b"1\n")
        with server.failing(lost_calls=2):
            sandbox.put(tmp_path / "source", PurePosixPath("/opt/file"))
        assert run(sandbox, "print(open('/opt/file').read())") == (0, b"content\n")


def test_a_disk_is_limited(backend: DaytonaBackend) -> None:
    """Guards the unit: 1024 MiB are one GiB."""
    code = """
import os
with open("file", "wb") as file:
    for number in range(int(1100)):
        file.write(bytes(1 << 20))
"""
    with opened(backend, disk=1024) as sandbox:
        process = sandbox.start(Command(["python3", "-c", code]))
        said = b"".join(chunk.data for chunk in process.output())
    assert b"No space left on device" in said


# --- ending ---------------------------------------------------------------------------------------


def test_lists_that_lag_are_made_up_for(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against a sandbox that is missing just after it was made, or there just after it went."""
    with server.failing(lag=2.5):
        with opened(backend, labels={"step": "one"}) as sandbox:
            assert [info.id for info in backend.list({"step": "one"})] == [sandbox.id]
            time.sleep(2.6)  # until it is in the list, where it stays for as long
            assert [info.id for info in backend.list({})] == [sandbox.id]
        assert list(backend.list({"step": "one"})) == []


def test_a_slow_removal_is_one(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against an error, or a wait, for what Daytona has accepted: a conflict says so."""
    with server.failing(removal=2.0):
        sandbox = backend.open(SandboxSpec())
        sandbox.close()
        backend.destroy(sandbox.id)
        sandbox.close()
        assert list(backend.list({})) == []


def test_a_lifetime_ends_the_sandbox(backend: DaytonaBackend) -> None:
    """Guards the limit that holds when nobody closes."""
    with opened(backend, lifetime=1) as sandbox:
        process = sandbox.start(Command(SLEEP))
        with pytest.raises(SandboxLost, match="lifetime"):
            process.wait()
        with pytest.raises(SandboxLost, match="lifetime"):
            sandbox.start(Command(["true"]))


def test_the_time_to_live_is_put_off(
    backend: DaytonaBackend, server: DaytonaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a step that runs for longer than the default, which ends what nobody looks after."""
    monkeypatch.setattr(toolbox, "EXTEND_EVERY", 0.1)
    with opened(backend) as sandbox:
        process = sandbox.start(Command(["python3", "-c", LINES, "200"]))
        assert len(list(process.output())) > 1
        assert server.ask("GET", f"/ttl/{sandbox.id}") > 0


def test_a_silent_step_is_kept_alive(
    backend: DaytonaBackend, server: DaytonaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a step without output against Daytona's end of what nobody calls; work inside does not count."""
    monkeypatch.setattr(process, "WAIT", 1.0)
    minute = 0.2  # seconds
    with server.failing(minute=minute), opened(backend) as sandbox:
        assert run(sandbox, f"import time; time.sleep({2 * AUTO_STOP * minute}); print(1)") == (0, b"1\n")


def launched(backend: DaytonaBackend) -> tuple[subprocess.Popen[bytes], str]:
    """Another process with a sandbox that runs a command, and the sandbox's id."""
    request = {"backend": "daytona", "spec": dataclasses.asdict(SandboxSpec()), "argv": SLEEP}
    words = [sys.executable, launcher.__file__, json.dumps(request, default=str)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen(words, env=env, stdout=subprocess.PIPE)
    assert other.stdout
    return other, other.stdout.readline().decode().strip()


def test_a_killed_launcher_leaves_nothing(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards against a sandbox that outlives its launcher on a machine that lives."""
    other, sandbox_id = launched(backend)
    with other:
        assert [found["name"] for found in server.sandboxes()] == [sandbox_id]
        other.kill()
    until(lambda: server.sandboxes() == [])


def test_daytona_ends_what_a_dead_machine_left(backend: DaytonaBackend, server: DaytonaServer) -> None:
    """Guards the last resort: with launcher and warden gone, nobody calls, and the sandbox stops and goes."""
    other, sandbox_id = launched(backend)
    with other:
        children = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
        for pid in [*map(int, children), other.pid]:
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert [info.id for info in backend.list({})] == [sandbox_id]
    with server.failing(minute=0.05):
        until(lambda: server.sandboxes() == [])
