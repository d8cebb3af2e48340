"""What goes wrong between a launcher and a server of boxes, over the stand-in."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec, Stream
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    QuotaExceeded,
    SandboxLost,
    StartFailed,
    UnsupportedOption,
)
from metaflow_extensions.sandbox.guest.exec_loader import WINDOW

from .boxlite import KEY, BoxliteServer, boxlite_server
from .registry import Registry
from .waiting import until

boxlite = pytest.importorskip("boxlite", reason="the SDK is missing: pip install boxlite")

from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend  # noqa: E402

PATIENCE = 60.0  # seconds after which something hangs
SLEEP = ["python3", "-c", "import time; print('up', flush=True); time.sleep(600)"]
OPEN = """
import sys, time
from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
sandbox = BoxliteBackend().open(SandboxSpec())
process = sandbox.start(Command(["python3", "-c", "print('up', flush=True); import time; time.sleep(600)"]))
next(process.output())
print(sandbox.id, flush=True)
time.sleep(600)
"""
SUCCEED = """
from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend
BoxliteBackend().check()
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[BoxliteServer]:
    """A server for the tests that leave it alive."""
    with boxlite_server() as running:
        yield running


@pytest.fixture
def server(shared: BoxliteServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BoxliteServer]:
    """The server, which has no box left after the test."""
    use(shared, monkeypatch, tmp_path)
    yield shared
    assert shared.boxes() == []


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BoxliteServer]:
    """A server to be killed."""
    with boxlite_server() as running:
        use(running, monkeypatch, tmp_path)
        yield running


def use(server: BoxliteServer, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Lead the backend to it, with an empty state."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)


def python(code: str, *arguments: str, **changes: Any) -> Command:
    """A command that runs Python code."""
    return Command(["python3", "-I", "-S", "-c", code, *arguments], **changes)


@pytest.mark.parametrize("more", [0, 20])
def test_dropped_connection_loses_the_sandbox(server: BoxliteServer, more: int) -> None:
    """Output that is lost with a connection must not look like all of it, however the SDK mends that."""
    sandbox = BoxliteBackend().open(SandboxSpec())
    code = f"""
import os, time
for _ in range(40):
    os.write(1, b"x" * 10000)
    time.sleep(0.01)
time.sleep({more})
"""
    with server.failing(drop_after=100_000):
        process = sandbox.start(python(code))
        with pytest.raises(SandboxLost):
            list(process.output())
    sandbox.close()


def test_killed_server_loses_the_sandbox(own_server: BoxliteServer) -> None:
    """The SDK waits for minutes for a server that is gone: readers, waiters and senders must not."""
    sandbox = BoxliteBackend().open(SandboxSpec())
    process = sandbox.start(python("import time; print('up', flush=True); time.sleep(600)", stdin=True))
    chunks = process.output()
    next(chunks)
    own_server.process.kill()
    begin = time.monotonic()
    with pytest.raises(SandboxLost):
        list(chunks)
    with pytest.raises(SandboxLost):
        process.wait()
    with pytest.raises(SandboxLost):
        process.send(b"x")
    assert time.monotonic() - begin < PATIENCE
    with pytest.raises(SandboxLost, match="boxlite rm --force"):
        sandbox.close()
    sandbox.close()


def test_slow_consumer_bounds_what_is_under_way(server: BoxliteServer) -> None:
    """The SDK queues without a bound: what nobody reads would fill the launcher's memory."""
    code = """
import os, time
written = 0
os.set_blocking(1, False)
last = time.monotonic()
while time.monotonic() - last < 1:
    try:
        written += os.write(1, b"x" * 65536)
        last = time.monotonic()
    except BlockingIOError:
        time.sleep(0.01)
open("/tmp/full", "w").close()
os.write(2, b"%d" % written)
"""
    sandbox = BoxliteBackend().open(SandboxSpec())
    process = sandbox.start(python(code))
    full = sandbox.start(python("import os, time\nwhile not os.path.exists('/tmp/full'): time.sleep(0.05)"))
    assert full.wait() == 0
    outputs = list(process.output())
    sandbox.close()
    written = int(b"".join(output.data for output in outputs if output.stream is Stream.STDERR))
    read = sum(len(output.data) for output in outputs if output.stream is Stream.STDOUT)
    assert written == read
    assert written < 2 * WINDOW


@pytest.mark.parametrize("frame", [1, 3, 4097])
def test_frames_cut_anywhere(server: BoxliteServer, frame: int) -> None:
    """The SDK decodes each frame by itself: what is cut within a character or a line must come through."""
    sandbox = BoxliteBackend().open(SandboxSpec())
    with server.failing(frame=frame):
        process = sandbox.start(python("import os; os.write(1, '\u20ac\U0001f600'.encode() * 200)"))
        written = b"".join(output.data for output in process.output())
        assert process.wait() == 0
    sandbox.close()
    assert written == "\u20ac\U0001f600".encode() * 200


def test_a_hundred_megabytes_in_and_out(server: BoxliteServer) -> None:
    """Artifacts are binary and large: every byte of both directions, at once."""
    code = """
import hashlib, os, threading
got = hashlib.sha256()
def take():
    while data := os.read(0, 1 << 20):
        got.update(data)
taking = threading.Thread(target=take)
taking.start()
block = bytes(range(256)) * 4096
for _ in range(100):
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(1, rest):]
taking.join()
os.write(2, got.hexdigest().encode())
"""
    block = bytes(range(255, -1, -1)) * 4096
    sandbox = BoxliteBackend().open(SandboxSpec())
    process = sandbox.start(python(code, stdin=True))

    def feed() -> None:
        for _ in range(100):
            process.send(block)
        process.send(b"")

    feeding = threading.Thread(target=feed)
    feeding.start()
    received, said = hashlib.sha256(), b""
    for output in process.output():
        if output.stream is Stream.STDOUT:
            received.update(output.data)
        else:
            said += output.data
    feeding.join(PATIENCE)
    assert process.wait() == 0
    sandbox.close()
    assert said.decode() == hashlib.sha256(block * 100).hexdigest()
    assert received.hexdigest() == hashlib.sha256(bytes(range(256)) * 4096 * 100).hexdigest()


def test_failed_boot_leaves_nothing(server: BoxliteServer) -> None:
    """A box that failed keeps its row and its disk until it is removed."""
    backend = BoxliteBackend()
    with server.failing(boot="The VM failed to start."), pytest.raises(StartFailed, match="failed to start"):
        backend.open(SandboxSpec())
    assert (server.boxes(), list(backend.list({}))) == ([], [])


def test_full_server_is_a_quota(server: BoxliteServer) -> None:
    """A server without room is asked again later; a mistake is not."""
    with server.failing(full=True), pytest.raises(QuotaExceeded):
        BoxliteBackend().open(SandboxSpec())
    assert server.boxes() == []


@pytest.mark.parametrize(
    ("kind", "tag", "raises", "says"),
    [
        ("open", "absent", UnsupportedOption, "there is no image"),
        ("private", "latest", UnsupportedOption, "docker login"),
        ("token", "latest", UnsupportedOption, "docker login"),
        ("broken", "latest", StartFailed, "503"),
    ],
)
def test_images_that_do_not_come(
    server: BoxliteServer, registry: Registry, kind: str, tag: str, raises: type[Exception], says: str
) -> None:
    """A mistake in a name must not be tried again and again; a registry that fails must."""
    image = registry.image(kind).replace("latest", tag)
    with pytest.raises(raises, match=says):
        BoxliteBackend().open(SandboxSpec(image=image))
    assert server.boxes() == []


def test_image_that_is_there(server: BoxliteServer, registry: Registry) -> None:
    """The same registry serves what it has."""
    sandbox = BoxliteBackend().open(SandboxSpec(image=registry.image()))
    assert sandbox.start(python("import os; os._exit(7)")).wait() == 7
    sandbox.close()


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": 0.5},
        {"cpu": 300},
        {"disk": 100},
        {"network": "public"},
        {"network": ("example.org",)},
        {"image": "/no/such/layout"},
    ],
    ids=str,
)
def test_what_would_be_rounded_or_open_is_refused(server: BoxliteServer, change: dict[str, Any]) -> None:
    """Half a core becomes none, and any network leads to the host's loopback."""
    with pytest.raises(UnsupportedOption):
        BoxliteBackend().open(SandboxSpec(**change))
    assert server.boxes() == []


def test_options_reach_the_server(server: BoxliteServer) -> None:
    """An option that is lost on its way is a limit that isn't there."""
    sandbox = BoxliteBackend().open(SandboxSpec(cpu=2, memory=512, disk=2048, image="some:1"))
    (box,) = server.boxes()
    sandbox.close()
    assert (box["name"], box["cpus"], box["memory_mib"], box["image"]) == (sandbox.id, 2, 512, "some:1")
    assert box["options"]["disk_size_gb"] == 2
    assert box["options"]["network"]["mode"] == "disabled"


def test_wrong_key_is_named(server: BoxliteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not accepted is a setting's fault, to be said before anything starts."""
    monkeypatch.setenv("BOXLITE_API_KEY", "another")
    with pytest.raises(BackendUnavailable, match="BOXLITE_API_KEY"):
        BoxliteBackend().check()
    assert KEY != "another"


def test_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at the address: with the address."""
    monkeypatch.setenv("BOXLITE_URL", "http://127.0.0.1:1")
    with pytest.raises(BackendUnavailable, match=r"http://127\.0\.0\.1:1"):
        BoxliteBackend().check()


def test_image_without_python_is_named(server: BoxliteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of another kind must say what it lacks."""
    monkeypatch.setattr("metaflow_extensions.sandbox.backends.boxlite.attachment.PYTHON", "python-not-there")
    sandbox = BoxliteBackend().open(SandboxSpec())
    with pytest.raises(StartFailed, match="does not run"):
        sandbox.start(python(""))
    sandbox.close()


def test_twenty_at_once_over_one_runtime(server: BoxliteServer) -> None:
    """All tasks of a run share one runtime, one loop and one connection's limits."""
    backend = BoxliteBackend()
    results: dict[int, tuple[bytes, int]] = {}

    def live(number: int) -> None:
        sandbox = backend.open(SandboxSpec(labels={"number": str(number)}))
        process = sandbox.start(
            python("import os, sys; os.write(1, sys.argv[1].encode() * 99999)", str(number))
        )
        written = b"".join(output.data for output in process.output())
        results[number] = (written, process.wait())
        sandbox.close()

    threads = [threading.Thread(target=live, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {number: (str(number).encode() * 99999, 0) for number in range(20)}


def test_killed_launcher_leaves_nothing(server: BoxliteServer) -> None:
    """Nobody but the warden is left to end what a killed launcher had open."""
    launcher = subprocess.Popen([sys.executable, "-c", OPEN], stdout=subprocess.PIPE)
    assert launcher.stdout
    sandbox_id = launcher.stdout.readline().decode().strip()
    assert [info.id for info in BoxliteBackend().list({})] == [sandbox_id]
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    until(lambda: not server.boxes())
    until(lambda: not list(BoxliteBackend().list({})))


@pytest.mark.parametrize("turn", range(5))
def test_success_stays_one_at_exit(server: BoxliteServer, turn: int) -> None:
    """The SDK's threads may abort an interpreter that ends at once: a success would become a failure."""
    done = subprocess.run([sys.executable, "-c", SUCCEED], capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b""), turn


def test_credentials_are_in_no_file_and_no_command_line(server: BoxliteServer, tmp_path: Path) -> None:
    """Whoever reads command lines or the state directory would be let in by the server."""
    sandbox = BoxliteBackend().open(SandboxSpec())
    kept = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    shown = [path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    sandbox.close()
    assert KEY not in "\n".join(kept)
    # The stand-in itself is given its key in its arguments.
    assert [text for text in shown if KEY in text and "boxlite_server" not in text] == []


def test_command_is_lost_with_the_loader(server: BoxliteServer) -> None:
    """A step runs as root in its machine and may kill what passes on its output: no zero comes of it."""
    sandbox = BoxliteBackend().open(SandboxSpec())
    process = sandbox.start(python("import os, time; os.kill(os.getppid(), 9); time.sleep(600)"))
    assert process.wait() == 137
    sandbox.close()
