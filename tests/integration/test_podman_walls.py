"""What a step finds in a container, looked at from inside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("docker")

from metaflow_extensions.sandbox.backends.docker.backend import PodmanBackend
from metaflow_extensions.sandbox.backends.docker.profile import SHARES
from metaflow_extensions.sandbox.backends.interface import Command, Sandbox, SandboxSpec
from metaflow_extensions.sandbox.errors import StartFailed, UnsupportedOption

from .engines import Podman

LOOK = """
import json, os, resource
status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
mounts = [line.split() for line in open("/proc/self/mounts")]
def can_write(place):
    try:
        open(os.path.join(place, "mine"), "w").close()
        os.unlink(os.path.join(place, "mine"))
        return True
    except OSError:
        return False
writable, own = [], []
for place, _, files in os.walk("/"):
    if place.startswith(("/proc", "/sys")):
        continue
    if can_write(place):
        writable.append(place)
    try:
        paths = [os.path.join(place, name) for name in files]
        own += [path for path in paths if os.lstat(path).st_uid == os.getuid()]
    except OSError:
        pass
settings = []
for place, _, files in os.walk("/proc/sys"):
    for name in files:
        with open("/dev/null") as nothing:
            if os.access(os.path.join(place, name), os.W_OK):
                settings.append(os.path.join(place, name))
print(json.dumps({
    "status": status,
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getgroups()],
    "sizes": {target: os.statvfs(target).f_frsize * os.statvfs(target).f_blocks for _, target, *_ in mounts},
    "read_only": {target: "ro" in options.split(",") for _, target, _, options, *_ in mounts},
    "writable": writable,
    "own": own,
    "settings": settings,
    "devices": sorted(os.listdir("/dev")),
    "interfaces": sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line),
    "cores": resource.getrlimit(resource.RLIMIT_CORE),
    "sockets": [os.path.join(place, name) for place in ("/run", "/var/run") for name in os.listdir(place)],
    "init": open("/proc/1/comm").read().strip(),
}))
"""


@contextlib.contextmanager
def opened(podman: Podman, patch: pytest.MonkeyPatch, **changes: Any) -> Iterator[Sandbox]:
    """A sandbox of the test image."""
    patch.setenv("CONTAINER_HOST", podman.url)
    sandbox = PodmanBackend().open(SandboxSpec(image=Podman.IMAGE, **changes))
    try:
        yield sandbox
    finally:
        sandbox.close()


@pytest.fixture(scope="module")
def seen(podman: Podman) -> dict[str, Any]:
    """What a step sees in a sandbox with 64 MiB of disk."""
    with pytest.MonkeyPatch.context() as patch, opened(podman, patch, disk=64) as sandbox:
        process = sandbox.start(Command(["python3", "-c", LOOK]))
        written = b"".join(chunk.data for chunk in process.output())
        assert process.wait() == 0, written
        found: dict[str, Any] = json.loads(written)
        return found


def test_no_privilege_is_left(seen: dict[str, Any]) -> None:
    """Guards against root, capabilities, and programs of the image that would give them back."""
    *ids, groups = seen["ids"]
    assert ids == [65534, 65534, 65534]
    assert set(groups) <= {65534}
    sets = {name: int(value, 16) for name, value in seen["status"].items() if name.startswith("Cap")}
    assert sets == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert seen["status"]["NoNewPrivs"] == "1"


def test_system_calls_are_filtered(seen: dict[str, Any]) -> None:
    """Guards against an engine without its default filter."""
    assert seen["status"]["Seccomp"] == "2"


def test_only_capped_memory_can_be_written(seen: dict[str, Any]) -> None:
    """Guards the disk limit: a place that is not capped fills the engine's storage for everybody."""
    assert seen["read_only"]["/"]
    others = {place for place in seen["writable"] if place not in SHARES and not place.startswith("/run")}
    assert others <= {"/dev/shm", "/dev/mqueue"}
    assert seen["sizes"]["/run"] <= 64 << 10
    assert set(SHARES) <= set(seen["writable"])
    assert sum(seen["sizes"][place] for place in SHARES) == 64 << 20
    assert seen["sizes"]["/dev/shm"] <= 64 << 20


def test_nothing_of_the_image_belongs_to_the_step(seen: dict[str, Any]) -> None:
    """Guards against a user that owns files of the image."""
    assert [path for path in seen["own"] if not path.startswith(("/dev/", *SHARES))] == []


def test_no_setting_of_the_kernel_can_be_written(seen: dict[str, Any]) -> None:
    """Guards /proc/sys, through which a container reaches the host."""
    assert seen["settings"] == []


def test_devices_are_the_harmless_ones(seen: dict[str, Any]) -> None:
    """Guards against disks, /dev/kmsg and the like."""
    harmless = "console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert set(seen["devices"]) <= set(harmless.split())


def test_network_is_cut(seen: dict[str, Any]) -> None:
    """Guards the default: nothing but the container's own loopback."""
    assert seen["interfaces"] == ["lo"]


def test_engine_is_not_within_reach(seen: dict[str, Any]) -> None:
    """Guards against the engine's socket inside: whoever has it is root on the host."""
    assert [path for path in seen["sockets"] if "sock" in path] == []


def test_no_core_dumps_and_orphans_are_buried(seen: dict[str, Any]) -> None:
    """Guards against memory written to the host's core pattern, and process ids used up by zombies."""
    assert seen["cores"] == [0, 0]
    assert seen["init"] != "python3"


def test_engines_own_network_must_exist(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a misspelt network that silently becomes another one."""
    options = {"network": "no-such-network"}
    with (
        opened(podman, monkeypatch, network="host", options=options) as sandbox,
        pytest.raises(StartFailed, match="no-such-network"),
    ):
        sandbox.start(Command(["true"]))
    with pytest.raises(UnsupportedOption, match="network='host' as well"):
        PodmanBackend().open(SandboxSpec(image=Podman.IMAGE, options=options))
