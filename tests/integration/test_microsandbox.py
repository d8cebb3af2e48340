"""microsandbox's own traps, over the stand-in of its cloud: what breaks, what is refused, secrets."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Command, Isolation, SandboxSpec, Secret
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    QuotaExceeded,
    SandboxLost,
    StartFailed,
    UnsupportedOption,
)
from metaflow_extensions.sandbox.testing.parts import launcher

pytest.importorskip("microsandbox", reason="the SDK is not installed: pip install microsandbox")

from metaflow_extensions.sandbox.backends.microsandbox.backend import MicrosandboxBackend
from metaflow_extensions.sandbox.backends.microsandbox.place import KEY, URL
from metaflow_extensions.sandbox.backends.microsandbox.sandbox import MicrosandboxSandbox

from .microsandboxes import StandIn, stand_in

MIB = 1 << 20
SLEEP = "import os, time; os.write(1, b'up'); time.sleep(600)"
# A step that writes for ever, and says so.
FLOOD = "import os\nwhile True: os.write(1, bytes(65536))"


@pytest.fixture(scope="module")
def running() -> Iterator[StandIn]:
    """For all tests."""
    with stand_in() as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def cloud(running: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in, without what the test before made it do."""
    use(running, monkeypatch)
    running.misbehave()
    return running


@pytest.fixture
def backend() -> MicrosandboxBackend:
    return MicrosandboxBackend()


@pytest.fixture
def doomed(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in of the test's own, which may end it."""
    with stand_in() as running:
        use(running, monkeypatch)
        yield running


def use(cloud: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.settings.items():
        monkeypatch.setenv(name, value)


def spec(**changes: Any) -> SandboxSpec:
    """The least that is needed."""
    return SandboxSpec(**{"image": StandIn.image, **changes})


@contextlib.contextmanager
def opened(backend: MicrosandboxBackend, **changes: Any) -> Iterator[MicrosandboxSandbox]:
    """A sandbox, closed at the end."""
    sandbox = backend.open(spec(**changes))
    try:
        yield sandbox
    finally:
        sandbox.close()


def python(code: str, *arguments: str, **changes: Any) -> Command:
    return Command(["python3", "-I", "-S", "-c", code, *arguments], **changes)


def run(sandbox: MicrosandboxSandbox, command: Command) -> tuple[int, bytes]:
    """Exit code and all output."""
    process = sandbox.start(command)
    said = b"".join(chunk.data for chunk in process.output())
    return process.wait(), said


def test_a_connection_dropped_in_the_middle_of_output(backend: MicrosandboxBackend, cloud: StandIn) -> None:
    """Guards against output that ends early and passes for all of it, and against a wait that never ends."""
    code = "import os, sys\nfor n in range(1000): os.write(1, b'%07d,' % n * 8192)"
    with opened(backend) as sandbox:
        cloud.misbehave(drop_after=2 * MIB)
        process = sandbox.start(python(code))
        received = bytearray()
        with pytest.raises(SandboxLost, match="connection"):
            for chunk in process.output():
                received += chunk.data
        whole = b"".join(b"%07d," % number * 8192 for number in range(64))
        assert whole.startswith(received)
        with pytest.raises(SandboxLost, match=sandbox.id):
            process.wait()
        process.kill()
        assert run(sandbox, python("print('next')")) == (0, b"next\n")


def test_a_cloud_that_dies_under_a_command(backend: MicrosandboxBackend, doomed: StandIn) -> None:
    """Guards against a hang, and against a close that keeps silent about what it could not remove."""
    sandbox = backend.open(spec())
    doomed.misbehave(die_after=1)
    process = sandbox.start(python(SLEEP, stdin=True))
    with pytest.raises(SandboxLost):
        list(process.output())
    with pytest.raises(SandboxLost):
        process.send(b"x" * MIB)
    with pytest.raises((StartFailed, SandboxLost)):
        sandbox.start(python(""))
    with pytest.raises(SandboxLost, match=f"msb remove --force {sandbox.id}"):
        sandbox.close()
    with pytest.raises(BackendUnavailable, match=URL):
        backend.check()


def test_a_slow_reader_holds_little(backend: MicrosandboxBackend) -> None:
    """Guards the launcher's memory against a step that writes faster than anybody reads."""
    with opened(backend) as sandbox:
        process = sandbox.start(python(FLOOD))
        output = process.output()
        next(output)
        tracemalloc.start()
        try:
            time.sleep(1)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 32 * MIB
        process.kill()
        assert process.wait() == 137


def test_a_hundred_mebibytes_both_ways(backend: MicrosandboxBackend) -> None:
    """Guards large artifacts: nothing lost, doubled or out of order, nor waiting for each other."""
    code = """
import hashlib, os, sys
digest, left = hashlib.sha256(), 100 << 20
while left:
    data = os.read(0, 1 << 16)
    digest.update(data)
    left -= len(data)
    while data:
        data = data[os.write(1, data):]
os.write(2, digest.hexdigest().encode())
"""
    block = os.urandom(MIB)
    with opened(backend) as sandbox:
        process = sandbox.start(python(code, stdin=True))
        feeder = threading.Thread(target=lambda: [process.send(block) for _ in range(100)])
        feeder.start()
        back, said = hashlib.sha256(), b""
        for chunk in process.output():
            if chunk.stream.value == "stdout":
                back.update(chunk.data)
            else:
                said += chunk.data
        feeder.join()
        expected = hashlib.sha256(block * 100).hexdigest()
        assert (process.wait(), said.decode(), back.hexdigest()) == (0, expected, expected)


def test_a_boot_that_fails(backend: MicrosandboxBackend, cloud: StandIn) -> None:
    """Guards the reason's way to the user, and that nothing stays of a sandbox that never was."""
    cloud.misbehave(boot="no host has virtualization")
    with pytest.raises(StartFailed, match="no host has virtualization"):
        backend.open(spec(labels={"test": "boot"}))
    assert list(backend.list({"test": "boot"})) == []


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        ("nobody/nothing", UnsupportedOption, "there is no image 'nobody/nothing'"),
        ("private/thing", UnsupportedOption, "msb registry login"),
        ("broken/thing", StartFailed, "can't be pulled"),
        ("./an.tar", UnsupportedOption, "push it to a registry"),
    ],
)
def test_images_that_cannot_be_had(
    backend: MicrosandboxBackend, image: str, error: type[Exception], said: str
) -> None:
    """Guards the line between what is tried again and what is not: an image that is wrong stays wrong."""
    with pytest.raises(error, match=said):
        backend.open(spec(image=image, labels={"test": "image"}))
    assert list(backend.list({"test": "image"})) == []


def test_an_image_without_python_is_explained(backend: MicrosandboxBackend) -> None:
    """Guards the one thing that an image must have."""
    with opened(backend, image="bare/none") as sandbox, pytest.raises(UnsupportedOption, match="no python3"):
        sandbox.start(Command(["true"]))


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_cloud_that_refuses(backend: MicrosandboxBackend, cloud: StandIn, status: int) -> None:
    """Guards the difference between too many sandboxes, which waits, and a broken cloud."""
    cloud.misbehave(refuse=status)
    with pytest.raises(QuotaExceeded if status == 429 else StartFailed):
        backend.open(spec())


def test_a_wrong_key_is_explained(backend: MicrosandboxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the message, and that the key itself is not in it."""
    monkeypatch.setenv(KEY, "another-key")
    with pytest.raises(BackendUnavailable, match=KEY) as raised:
        backend.check()
    assert "another-key" not in str(raised.value)


def test_half_of_the_settings_is_refused(
    backend: MicrosandboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a virtual machine here for whoever meant the cloud."""
    monkeypatch.delenv(KEY)
    for attempt in (backend.check, lambda: backend.open(spec())):
        with pytest.raises(BackendUnavailable, match=f"{KEY} is not"):
            attempt()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cpu": 0.5}, "whole cores, such as 1"),
        ({"options": {"pull_policy": "sometimes"}}, "missing, always, never"),
        ({"options": {"registry_insecure": "yes"}}, "True or False"),
        ({"network": ("localhost",)}, "can't reach"),
        ({"network": ("api.localhost",)}, "can't reach"),
        ({"network": ("host.microsandbox.internal:80",)}, "can't reach"),
        ({"network": ("127.0.0.1",)}, "machine itself"),
        ({"network": ("*.*.org",)}, "neither a host"),
        ({"network": "host"}, "NETWORK_HOST"),
        ({"secrets": [Secret("A", "x", ("example.org",))]}, "without a network"),
        ({"network": "public", "secrets": [Secret("A", "x", ())]}, "names no host"),
    ],
    ids=str,
)
def test_what_can_not_be_honoured_is_refused(
    backend: MicrosandboxBackend, cloud: StandIn, changes: dict[str, Any], said: str
) -> None:
    """Guards against options that are rounded, ignored, or open more than they say."""
    asked = len(cloud.asked())
    with pytest.raises(UnsupportedOption, match=said):
        backend.open(spec(**changes))
    assert len(cloud.asked()) == asked


def test_what_is_asked_for_is_what_was_meant(backend: MicrosandboxBackend, cloud: StandIn) -> None:
    """Guards the translation of every option on its way to the cloud."""
    network = ("api.example.org", "*.example.com:8443", "192.0.2.7")
    options = {"pull_policy": "always"}
    with opened(
        backend,
        cpu=2,
        memory=512,
        disk=2048,
        lifetime=99.5,
        labels={"run": "1", "odd": "ü =,"},
        network=network,
        options=options,
    ) as sandbox:
        asked = cloud.asked()[-1]
        (info,) = backend.list({"run": "1"})
    assert asked["name"] == sandbox.id == info.id
    assert info.labels == {"run": "1", "odd": "ü =,"}
    assert asked["resources"] == {"vcpus": 2, "memory_mib": 512, "disk_size_mib": 2048}
    assert asked["lifecycle"]["max_duration_secs"] == 220
    assert asked["lifecycle"]["ephemeral"] is True
    assert asked["pull_policy"] == "always"
    policy = asked["network"]["policy"]
    assert policy["default_egress"] == "deny"
    allowed = [(rule["destination"], rule["ports"]) for rule in policy["rules"]]
    assert allowed[2:] == [
        ({"domain": "api.example.org"}, []),
        ({"domain_suffix": "example.com"}, [{"start": 8443, "end": 8443}]),
        ({"cidr": "192.0.2.7/32"}, []),
    ]
    assert all(to == {"group": "host"} and ports == [{"start": 53, "end": 53}] for to, ports in allowed[:2])


@pytest.mark.parametrize(
    ("network", "groups"), [("none", []), ("public", ["host", "host", "public"])], ids=["none", "public"]
)
def test_networks_are_closed_but_for_what_is_named(
    backend: MicrosandboxBackend, cloud: StandIn, network: str, groups: list[str]
) -> None:
    """Guards against the SDK's default, which is open: of the host nothing but its resolver is allowed."""
    with opened(backend, network=network):
        policy = cloud.asked()[-1]["network"]["policy"]
    assert policy["default_egress"] == "deny"
    assert [rule["destination"]["group"] for rule in policy["rules"]] == groups
    hosts = [rule for rule in policy["rules"] if rule["destination"] == {"group": "host"}]
    assert all(rule["ports"] == [{"start": 53, "end": 53}] for rule in hosts)


def test_a_secret_never_enters(backend: MicrosandboxBackend, cloud: StandIn) -> None:
    """Guards the value: not in the environment, memory, files or command lines inside, nor in any repr."""
    value = f"v4lue-{os.urandom(8).hex()}"
    secret = Secret("TOKEN", value, ("api.example.org", "*.example.com"))
    code = """
import glob, os, sys
found = os.environb[b"TOKEN"] + b" "
mark = bytes.fromhex(sys.argv[1])[::-1]
for path in [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline"), *glob.glob("/tmp/*")]:
    if mark in open(path, "rb").read():
        found += path.encode()
os.write(1, found)
"""
    with opened(backend, network=("api.example.org", "*.example.com"), secrets=(secret,)) as sandbox:
        code_, said = run(sandbox, python(code, value[::-1].encode().hex()))
        asked = cloud.asked()[-1]["network"]["secrets"]["entries"]
        shown = repr((secret, sandbox._spec))
    placeholder = asked[0]["placeholder"]
    assert (code_, said.decode()) == (0, f"{placeholder} ")
    assert asked[0]["value"] == value
    assert asked[0]["allowed_hosts"] == [
        {"type": "exact", "value": "api.example.org"},
        {"type": "wildcard", "value": "*.example.com"},
    ]
    assert value not in shown
    assert "TOKEN" in shown


def test_a_lifetime_ends_the_sandbox(backend: MicrosandboxBackend) -> None:
    """Guards the limit that holds when nobody closes, and its reason."""
    with opened(backend, lifetime=1) as sandbox:
        process = sandbox.start(python(SLEEP))
        with pytest.raises(SandboxLost, match="lifetime of 1 s"):
            process.wait()
        with pytest.raises(SandboxLost, match="lifetime"):
            sandbox.start(python(""))
    assert sandbox.id not in {info.id for info in backend.list({})}


def test_more_sandboxes_than_a_page_are_listed(backend: MicrosandboxBackend) -> None:
    """Guards cleaning up: what is on the second page is found, too."""
    with contextlib.ExitStack() as stack:
        ids = {stack.enter_context(opened(backend, labels={"test": "pages"})).id for _ in range(16)}
        assert {info.id for info in backend.list({"test": "pages"})} == ids


def test_twenty_tasks_at_once(backend: MicrosandboxBackend) -> None:
    """Guards the one loop that all calls of a process share."""

    def live(number: int) -> tuple[int, bytes]:
        with opened(backend, memory=128) as sandbox:
            command = python("import os; os.write(1, os.read(0, 99))", stdin=True)
            process = sandbox.start(command)
            process.send(b"%d" % number)
            process.send(b"")
            said = b"".join(chunk.data for chunk in process.output())
            return process.wait(), said

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(live, range(20))) == [(0, b"%d" % number) for number in range(20)]


def test_a_killed_launcher_leaves_nothing(backend: MicrosandboxBackend, cloud: StandIn) -> None:
    """Guards against machines in a cloud that outlive a SIGKILL of whoever pays for them."""
    request = {
        "backend": "microsandbox",
        "spec": dataclasses.asdict(spec(labels={"test": "killed"})),
        "argv": ["python3", "-c", SLEEP],
    }
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, launcher.__file__, json.dumps(request, default=str)]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        sandbox_id = other.stdout.readline().strip()
        assert [info.id for info in backend.list({"test": "killed"})] == [sandbox_id]
        machines = set(cloud.directory.iterdir())
        other.kill()
    deadline = time.monotonic() + 5

    def left() -> list[Any]:
        gone = machines - set(cloud.directory.iterdir())
        return [*backend.list({"test": "killed"}), *([] if gone else machines)]

    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []


def test_the_key_is_on_no_command_line(backend: MicrosandboxBackend, cloud: StandIn) -> None:
    """Guards the cloud's key: command lines are everyone's to read, and the guard has to have it."""
    with opened(backend):
        lines = [
            path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path.read_bytes)
        ]
    assert lines
    assert [line for line in lines if cloud.settings[KEY].encode() in line] == []


def readable(read: Callable[[], bytes]) -> bool:
    with contextlib.suppress(OSError):
        read()
        return True
    return False


def test_isolation_is_a_virtual_machines(backend: MicrosandboxBackend) -> None:
    """Guards isolation='vm', which asks for no less."""
    assert backend.isolation is Isolation.VM
