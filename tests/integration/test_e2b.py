"""E2B's own traps: keys, refusals, lost answers, broken streams, vanished sandboxes, and templates."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Command, Layer, SandboxSpec, Stream
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    QuotaExceeded,
    SandboxLost,
    StartFailed,
    UnsupportedOption,
)
from metaflow_extensions.sandbox.testing.parts import launcher

from .e2b import KEY, E2BServer, e2b_server
from .waiting import until

e2b = pytest.importorskip("e2b", reason="the SDK is missing: pip install e2b")

from metaflow_extensions.sandbox.backends.async_calls import loop  # noqa: E402
from metaflow_extensions.sandbox.backends.e2b import backend as backend_module  # noqa: E402
from metaflow_extensions.sandbox.backends.e2b import leftovers, templates  # noqa: E402
from metaflow_extensions.sandbox.backends.e2b import sandbox as sandbox_module  # noqa: E402
from metaflow_extensions.sandbox.backends.e2b.backend import E2BBackend  # noqa: E402
from metaflow_extensions.sandbox.backends.e2b.sandbox import E2BSandbox  # noqa: E402

PATIENCE = 60.0  # seconds
PYTHON = ["python3", "-I", "-S", "-c"]
SLEEP = [*PYTHON, "import os, time; os.write(1, b'up'); time.sleep(600)"]
ECHO = """
import os
while data := os.read(0, 65536):
    while data:
        data = data[os.write(1, data):]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[E2BServer]:
    """For all tests."""
    with e2b_server() as running:
        yield running


@pytest.fixture
def backend(server: E2BServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[E2BBackend]:
    """The backend of a process that knows no template, and a server with nothing left of it."""
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backend_module, "_templates", templates.Templates())
    yield E2BBackend()
    until(lambda: not server.sandboxes(), "the end of all sandboxes")


@contextlib.contextmanager
def opened(backend: E2BBackend, **changes: Any) -> Iterator[E2BSandbox]:
    """A sandbox, closed at the end."""
    sandbox = backend.open(SandboxSpec(**changes))
    try:
        yield sandbox
    finally:
        sandbox.close()


def run(sandbox: E2BSandbox, code: str, given: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Exit code and output of Python code."""
    process = sandbox.start(Command([*PYTHON, code], stdin=given is not None))
    if given is not None:

        def feed() -> None:
            process.send(given)
            process.send(b"")

        threading.Thread(target=feed, daemon=True).start()
    said = {Stream.STDOUT: b"", Stream.STDERR: b""}
    for chunk in process.output():
        said[chunk.stream] += chunk.data
    return process.wait(), said[Stream.STDOUT], said[Stream.STDERR]


# --- what can be known before a sandbox is made ---------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("E2B_API_KEY", "e2b_of-nobody", "E2B_API_KEY"),
        ("E2B_API_KEY", "", "E2B_API_KEY"),
        ("E2B_DEBUG", "true", "E2B_DEBUG"),
        ("E2B_API_URL", "http://127.0.0.1:9", "E2B_API_URL"),
        ("E2B_API_URL", "{url}/elsewhere", "E2B_API_URL"),
    ],
    ids=["wrong key", "no key", "debug", "nobody there", "somebody else there"],
)
def test_wrong_settings_are_named(
    backend: E2BBackend,
    server: E2BServer,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: str,
    said: str,
) -> None:
    """Guards against a wrong setting that shows as a step that fails, after retries."""
    monkeypatch.setenv(setting, value.format(url=server.url))
    for attempt in (backend.check, lambda: backend.open(SandboxSpec())):
        with pytest.raises(BackendUnavailable, match=said) as raised:
            attempt()
        assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu": 0.5},
        {"cpu": 3},
        {"cpu": 64},
        {"memory": 127},
        {"memory": 64},
        {"image": "/no/such/image"},
        {"options": {"template": "of-nobody"}},
        {"options": {"template": "mine"}, "memory": 256},
        {"options": {"template": 7}},
        {"options": {"min_free_disk": "1g"}},
        {"options": {"x": 1}},
    ],
    ids=str,
)
def test_what_e2b_has_not_is_refused(backend: E2BBackend, changes: dict[str, Any]) -> None:
    """Guards against an option that is rounded, or taken for another."""
    with pytest.raises(UnsupportedOption):
        backend.open(SandboxSpec(**changes))


# --- creation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [7, None])
def test_a_refusal_says_when_to_come_again(
    backend: E2BBackend, server: E2BServer, seconds: int | None
) -> None:
    """Guards what the launcher's queue goes by, and against an SDK that waits by itself."""
    backend.open(SandboxSpec()).close()
    with server.failing(refuse=429, retry_after=seconds), pytest.raises(QuotaExceeded) as raised:
        backend.open(SandboxSpec())
    assert raised.value.retry_after == seconds


def test_the_accounts_limit_is_a_quota(backend: E2BBackend, server: E2BServer) -> None:
    """Guards against a foreach that fails where it should wait."""
    with opened(backend), server.failing(limit=1), pytest.raises(QuotaExceeded, match="concurrent"):
        backend.open(SandboxSpec())
    backend.open(SandboxSpec()).close()


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_creation_that_fails_can_be_tried_again(
    backend: E2BBackend, server: E2BServer, status: int
) -> None:
    """Guards against a provider's failure that is taken for the user's."""
    backend.open(SandboxSpec()).close()
    with server.failing(refuse=status, times=9), pytest.raises(StartFailed):
        backend.open(SandboxSpec())


def test_a_sandbox_whose_answer_was_lost_is_ended(backend: E2BBackend, server: E2BServer) -> None:
    """Guards against a machine that nobody knows, though lists lag behind."""
    backend.open(SandboxSpec()).close()
    with server.failing(lose=1, lag=2):
        with pytest.raises(StartFailed):
            backend.open(SandboxSpec())
        assert len(server.asked("sandbox")[-1]["once"]) > 1
        made = server.asked("made")[-1]["made"]
        until(lambda: {"ended": made} in server.asked("ended"), "end of what nobody knows")


def test_what_a_sandbox_is_made_with(backend: E2BBackend, server: E2BServer) -> None:
    """Guards its time to live, its walls, and that it ends instead of being put away."""
    for changes in (
        {},
        {"network": "public", "lifetime": 100},
        {"network": ("example.org",), "lifetime": 1e6},
    ):
        backend.open(SandboxSpec(labels={"step": "a b"}, **changes)).close()
    asked = [request["sandbox"] for request in server.asked("sandbox")[-3:]]
    closed = {"allowPublicTraffic": False}
    assert [request["timeout"] for request in asked] == [900, 160, 3600]
    assert [request["autoPause"] for request in asked] == [False] * 3
    assert [request["allow_internet_access"] for request in asked] == [False, True, True]
    assert [request["network"] for request in asked] == [
        closed,
        closed,
        {**closed, "allowOut": ["example.org"], "denyOut": ["0.0.0.0/0"]},
    ]
    assert all(request["metadata"]["metaflow-sandbox.step"] == "a b" for request in asked)


def test_only_our_sandboxes_are_listed(backend: E2BBackend, server: E2BServer) -> None:
    """Guards the other sandboxes of an account against a cleaning up, and lists of several pages."""
    with contextlib.ExitStack() as stack:
        mine = {stack.enter_context(opened(backend, labels={"mine": "1"})).id for _ in range(6)}
        template = server.sandboxes()[0]["templateID"]
        other = loop().call(lambda: e2b.AsyncSandbox.create(template, timeout=60), 30)
        assert {info.id for info in backend.list({})} == mine
        assert {info.id for info in backend.list({"mine": "1"})} == mine
        backend.destroy(other.sandbox_id)


# --- templates ------------------------------------------------------------------------------------


def test_a_template_is_built_once(backend: E2BBackend, server: E2BServer) -> None:
    """Guards against a build for each task of a foreach, and one that nobody is told of."""
    told: list[str] = []
    before = len(server.asked("template"))
    spec = SandboxSpec(image="python:3.11", cpu=1, memory=512, tell=told.append)
    with ThreadPoolExecutor(8) as pool:
        for sandbox in pool.map(backend.open, [spec] * 8):
            sandbox.close()
    (asked,) = [request["template"] for request in server.asked("template")[before:]]
    assert (asked["cpuCount"], asked["memoryMB"]) == (1, 512)
    assert sum("FROM python:3.11" in line for line in told) == 1
    # Another process finds it.
    backend_module._templates = templates.Templates()
    backend.open(spec).close()
    assert len(server.asked("template")) == before + 1


def test_a_template_that_was_deleted_is_built_again(backend: E2BBackend, server: E2BServer) -> None:
    """Guards a long run against somebody who tidies up."""
    backend.open(SandboxSpec()).close()
    server.vanish(templates=True)
    with opened(backend) as sandbox:
        assert run(sandbox, "print('works')") == (0, b"works\n", b"")


def test_a_template_that_can_not_be_built_is_tried_once(backend: E2BBackend, server: E2BServer) -> None:
    """Guards a foreach against a failing build for each of its tasks, one after the other."""
    before = len(server.asked("template"))
    spec = SandboxSpec(image="python:3.12", memory=700)

    def failed(_number: int) -> str:
        with pytest.raises((StartFailed, UnsupportedOption)) as raised:
            backend.open(spec)
        return type(raised.value).__name__

    with server.failing(build="the disk is full"), ThreadPoolExecutor(8) as pool:
        assert set(pool.map(failed, range(8))) == {"StartFailed"}
    with server.failing(build="MANIFEST_UNKNOWN: not found"):
        assert failed(0) == "UnsupportedOption"
    assert len(server.asked("template")) < before + 8


def test_a_template_of_the_users_own(backend: E2BBackend, server: E2BServer) -> None:
    """Guards template=, which takes the place of a build."""
    with opened(backend):
        name = server.sandboxes()[0]["alias"]
    before = len(server.asked("template"))
    with opened(backend, options={"template": name}) as sandbox:
        assert run(sandbox, "print('works')") == (0, b"works\n", b"")
    assert len(server.asked("template")) == before


def test_packages_become_part_of_a_template_once(
    backend: E2BBackend, server: E2BServer, layer: Layer
) -> None:
    """Guards a foreach against an environment that is sent for each of its tasks."""
    templates_before, uploads_before = len(server.asked("template")), len(server.asked("files"))
    for _ in range(2):
        backend_module._templates = templates.Templates()
        with opened(backend, layer=layer) as sandbox:
            assert run(sandbox, f"print(open('{layer.place}/env/x').read())") == (0, b"there\n", b"")
    assert len(server.asked("template")) == templates_before + 1
    assert len(server.asked("files")) == uploads_before + 1


def test_packages_in_a_template_of_the_users_own(
    backend: E2BBackend, server: E2BServer, layer: Layer
) -> None:
    """Guards template= with packages: nothing is built from it, and they are there all the same."""
    with opened(backend):
        name = server.sandboxes()[0]["alias"]
    before = len(server.asked("template"))
    with opened(backend, options={"template": name}, layer=layer) as sandbox:
        assert run(sandbox, f"print(open('{layer.place}/env/x').read())") == (0, b"there\n", b"")
    assert len(server.asked("template")) == before


def test_packages_that_can_not_be_unpacked(backend: E2BBackend, server: E2BServer, tmp_path: Path) -> None:
    """Guards against a sandbox that stays, or an error that does not say which build failed."""
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    broken = Layer("broken", tmp_path / "broken.tar.gz", PurePosixPath("/opt/packages/broken"))
    with pytest.raises(StartFailed, match=r"template of image=.*exit status 1"):
        backend.open(SandboxSpec(layer=broken))
    with opened(backend):
        name = server.sandboxes()[0]["alias"]
    with pytest.raises(StartFailed, match=r"packages can't be unpacked in /opt/packages/broken"):
        backend.open(SandboxSpec(options={"template": name}, layer=broken))
    assert server.sandboxes() == []


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """One file, under a key of its own."""
    key = os.urandom(8).hex()
    with tarfile.open(tmp_path / f"{key}.tar.gz", "w:gz") as archive:
        (tmp_path / "x").write_text("there")
        archive.add(tmp_path / "x", "env/x")
    return Layer(key, tmp_path / f"{key}.tar.gz", PurePosixPath("/opt/packages") / key)


# --- a command and its streams --------------------------------------------------------------------


@pytest.mark.parametrize("way", ["abort", "unavailable"])
def test_broken_streams_lose_nothing(backend: E2BBackend, server: E2BServer, way: str) -> None:
    """Guards against a line that is lost or comes twice when the connection breaks."""
    code = """
import os
for number in range(20000):
    os.write(1 + number % 2, b"%d|" % number)
os._exit(7)
"""
    numbers = [b"%d|" % number for number in range(20000)]
    with opened(backend) as sandbox, server.failing(drop_after=30_000, drops=8, way=way):
        assert run(sandbox, code) == (7, b"".join(numbers[::2]), b"".join(numbers[1::2]))


def test_input_whose_answer_is_lost_arrives_once(backend: E2BBackend, server: E2BServer) -> None:
    """Guards the relay, whose frames can't be read any more after bytes that come twice."""
    data = bytes(range(256)) * 4000
    with opened(backend) as sandbox, server.failing(lose_input=4, drop_after=200_000, drops=4):
        assert run(sandbox, ECHO, data) == (0, data, b"")


def test_a_sandbox_that_vanishes_is_lost(backend: E2BBackend, server: E2BServer) -> None:
    """Guards against waiting for a command that is no more, and against an exit code for it."""
    with opened(backend) as sandbox:
        process = sandbox.start(Command(SLEEP, stdin=True))
        output = process.output()
        assert next(output).data == b"up"
        server.vanish()
        with pytest.raises(SandboxLost):
            list(output)
        with pytest.raises(SandboxLost):
            process.wait()
        with pytest.raises(SandboxLost):
            for _ in range(100):
                process.send(b"x" * 100_000)
        with pytest.raises((StartFailed, SandboxLost)):
            sandbox.start(Command(["true"]))


def test_a_killed_loader_is_a_lost_sandbox(backend: E2BBackend) -> None:
    """Guards against an exit code that is not the command's own: what runs it may be killed for memory."""
    with opened(backend) as sandbox, pytest.raises(SandboxLost, match="killed"):
        run(sandbox, "import os, time; os.kill(os.getppid(), 9); time.sleep(600)")


def test_an_image_without_python_is_explained(backend: E2BBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the message for the commonest mistake with images."""
    from metaflow_extensions.sandbox.backends.e2b import link

    monkeypatch.setattr(link, "LOADER", "exec python4 -I")
    with opened(backend) as sandbox, pytest.raises(StartFailed, match="python4"):
        sandbox.start(Command(["true"]))


def test_the_key_stays_outside(backend: E2BBackend, server: E2BServer) -> None:
    """Guards the account against the code that it runs."""
    code = """
import glob
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        print(open(path, "rb").read())
    except OSError:
        pass
"""
    told: list[str] = []
    with opened(backend, tell=told.append, labels={"flow": "F"}, memory=600) as sandbox:
        _, said, _ = run(sandbox, code)
    assert b"TMPDIR" in said
    everything = [said.decode(), *told, json.dumps(server.asked("sandbox") + server.asked("template"))]
    assert [text for text in everything if KEY in text] == []


# --- the end --------------------------------------------------------------------------------------


def test_a_slow_end_holds_nobody_up(
    backend: E2BBackend, server: E2BServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a task whose results are complete against failing for a sandbox that takes its time to go."""
    monkeypatch.setattr(leftovers, "KILL", 0.5)
    sandbox = backend.open(SandboxSpec())
    with server.failing(slow_end=1.5):
        sandbox.close()
        assert [info["sandboxID"] for info in server.sandboxes()] == [sandbox.id]
        until(lambda: not server.sandboxes(), "end of it")


def test_a_lifetime_ends_the_sandbox(backend: E2BBackend, server: E2BServer) -> None:
    """Guards the limit that holds when nobody closes."""
    sandbox = backend.open(SandboxSpec(lifetime=1.5))
    process = sandbox.start(Command(SLEEP))
    with pytest.raises(SandboxLost, match="lifetime"):
        process.wait()
    with pytest.raises(SandboxLost, match="lifetime"):
        sandbox.start(Command(["true"]))
    until(lambda: not server.sandboxes(), "end of it")
    sandbox.close()


def test_its_time_to_live_is_extended(
    backend: E2BBackend, server: E2BServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a long step against E2B's end of what seems forgotten."""
    monkeypatch.setattr(sandbox_module, "RENEW", 0.1)
    before = len(server.asked("timeout"))
    with opened(backend):
        until(lambda: len(server.asked("timeout")) > before + 1, "extension")
    assert server.asked("timeout")[-1] == {"timeout": {"timeout": 900}}


@pytest.mark.parametrize("creating", [False, True], ids=["with a command", "while it is made"])
def test_a_killed_launcher_leaves_nothing(
    backend: E2BBackend, server: E2BServer, tmp_path: Path, creating: bool
) -> None:
    """Guards against a machine that costs money until its time to live has passed."""
    backend.open(SandboxSpec()).close()
    request = {"backend": "e2b", "spec": dataclasses.asdict(SandboxSpec()), "argv": SLEEP}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": tempfile.gettempdir()}
    words = [sys.executable, launcher.__file__, json.dumps(request, default=str)]
    with server.failing(slow_creation=2.0 if creating else 0.0):
        with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout
            if creating:
                until(server.sandboxes, "sandbox")
            else:
                assert other.stdout.readline().strip() == server.sandboxes()[0]["sandboxID"]
            other.kill()
        until(lambda: not server.sandboxes(), "end of it")
