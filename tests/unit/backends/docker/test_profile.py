"""What a container is asked for: nothing that names, options or an image's settings turn into more."""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("docker")

import docker

from metaflow_extensions.sandbox.backends.docker import profile
from metaflow_extensions.sandbox.backends.docker.engine import Engine
from metaflow_extensions.sandbox.backends.interface import Command, Feature, Mount, SandboxSpec
from metaflow_extensions.sandbox.errors import StartFailed, UnsupportedOption

LIMITS = frozenset({Feature.MEMORY_LIMIT, Feature.CPU_LIMIT, Feature.PROCESS_LIMIT})


def engine(*, is_podman: bool = False, limits: frozenset[Feature] = LIMITS) -> Engine:
    """An engine that is asked nothing."""
    return Engine(docker.APIClient(version="1.41"), "unix:///none", is_podman, limits)


def test_every_wall_is_asked_for_by_name() -> None:
    """Guards against an engine whose own defaults are wider."""
    config = profile.host_config(engine(), SandboxSpec(), {})
    assert config["ReadonlyRootfs"] is True
    assert config["CapDrop"] == ["ALL"]
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert config["NetworkMode"] == "none"
    assert config["PidsLimit"] == profile.PROCESSES
    assert config["Init"] is True
    assert not config.get("Privileged")
    assert not {"CapAdd", "Devices", "Binds", "PidMode", "IpcMode", "UsernsMode"} & {
        name for name, value in config.items() if value
    }
    assert {limit["Name"] for limit in config["Ulimits"]} == {"core", "nofile", "nproc"}


def test_limits_are_passed_on() -> None:
    """Guards units, and swap on top of the memory."""
    config = profile.host_config(engine(), SandboxSpec(cpu=1.5, memory=256, processes=7, gpu=2), {})
    assert (config["Memory"], config["MemorySwap"]) == (256 << 20, 256 << 20)
    assert config["NanoCpus"] == 1_500_000_000
    assert config["PidsLimit"] == 7
    (request,) = config["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (2, [["gpu"]])


def test_nothing_is_limited_where_the_engine_cannot() -> None:
    """Guards against an engine that refuses a container for a limit of ours that nobody asked for."""
    config = profile.host_config(engine(limits=frozenset()), SandboxSpec(), {})
    assert not config.get("PidsLimit")


def test_disk_is_shared_out_wholly() -> None:
    """Guards against writable places that are larger together than the disk that was asked for."""
    config = profile.host_config(engine(), SandboxSpec(disk=64), {})
    sizes = [
        int(word.removeprefix("size="))
        for place, options in config["Tmpfs"].items()
        if place in profile.SHARES
        for word in options.split(",")
        if word.startswith("size=")
    ]
    assert len(sizes) == len(profile.SHARES)
    assert sum(sizes) == 64 << 20


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a:b,c=d", "a\nb,", "a,readonly=false", '"', "target=/etc"])
def test_podman_reads_the_mount_that_was_meant(name: str) -> None:
    """Guards against a name that Podman, which makes a line of the fields, takes for further options."""
    mount = Mount(Path("/source", name), PurePosixPath("/target", name))
    (asked,) = profile.host_config(engine(is_podman=True), SandboxSpec(mounts=[mount]), {})["Mounts"]
    # As Podman's cmd/podman and pkg/api/handlers/compat do it: the last field of a name counts.
    line = f"type=bind,source={asked['Source']},target={asked['Target']},ro=true"
    (words,) = csv.reader(io.StringIO(line, newline=""))
    read = dict(word.partition("=")[::2] for word in words)
    assert read == {
        "type": "bind",
        "source": f"/source/{name}",
        "target": f"/target/{name}",
        "ro": "true",
    } | {extra: "" for extra in read if extra == "/"}


def test_docker_gets_names_as_they_are() -> None:
    """Guards against quotes that Docker, which reads the fields themselves, takes for part of the name."""
    mount = Mount(Path("/source/a,b"), PurePosixPath("/target/a,b"), read_only=False)
    (asked,) = profile.host_config(engine(), SandboxSpec(mounts=[mount]), {})["Mounts"]
    assert (asked["Source"], asked["Target"], asked["ReadOnly"]) == ("/source/a,b", "/target/a,b", False)


def test_images_variables_stay_and_ours_win() -> None:
    """Guards an image's PATH and settings, and the step's own values over both."""
    image = {"Config": {"Env": ["PATH=/opt/bin:/bin", "HOME=/root", "LD_LIBRARY_PATH=/cuda", "TERM=xterm"]}}
    told = profile.environment(Command(["true"], env={"LANG": "de_DE.UTF-8", "X": "a=b"}), image)
    assert sorted(told) == [
        f"HOME={profile.HOME}",
        "LANG=de_DE.UTF-8",
        "PATH=/opt/bin:/bin",
        f"TMPDIR={profile.TMP}",
        "X=a=b",
    ]
    script = profile.words(Command(["true"], env={"container": "mine"}), image)[2]
    assert "HOSTNAME" in script
    assert not {"TERM", "container"} & set(script.split())


@pytest.mark.parametrize("env", [{"": "x"}, {"a=b": "x"}, {"a": "\0"}, {"a\0": "x"}], ids=repr)
def test_impossible_variables_are_refused(env: dict[str, str]) -> None:
    """Guards against a name that sets another variable."""
    with pytest.raises(ValueError, match="no environment variable"):
        profile.environment(Command(["true"], env=env), {})


@pytest.mark.parametrize(
    ("argv", "error"),
    [([], ValueError), (["a\0b"], ValueError), ([""], StartFailed), (["--version"], StartFailed)],
    ids=repr,
)
def test_impossible_commands_are_refused(argv: list[str], error: type[Exception]) -> None:
    """Guards against a word that the shell in front takes for an option of its own."""
    with pytest.raises(error):
        profile.words(Command(argv), {})


def test_words_are_not_read_by_the_shell() -> None:
    """Guards against a shell in which words of the step are code."""
    given = ["$(id)", "; rm -rf /", "'\"`"]
    words = profile.words(Command(["python3", *given], cwd=PurePosixPath("/a b/$HOME")), {})
    assert words[:2] == ["/bin/sh", "-c"]
    assert words[3:] == ["/a b/$HOME", "python3", *given]


def test_networks() -> None:
    """Guards the default, and a network of the engine that is opened without having been asked for."""
    assert profile.network_mode(SandboxSpec()) == "none"
    assert profile.network_mode(SandboxSpec(network="host")) == "host"
    assert profile.network_mode(SandboxSpec(network="host", options={"network": "lan"})) == "lan"
    with pytest.raises(UnsupportedOption, match="network='host' as well"):
        profile.network_mode(SandboxSpec(options={"network": "lan"}))


@pytest.mark.parametrize(
    "target", ["/", "relative", "/a/../etc", "/proc/self", "/sys", "/dev/x", profile.WORK, "/tmp", "/a\0"]
)
def test_doubtful_targets_are_refused(target: str) -> None:
    """Guards against a mount over the container's own places."""
    with pytest.raises(UnsupportedOption):
        profile.check_target(PurePosixPath(target), [])
    profile.check_target(PurePosixPath("/mnt/data"), [PurePosixPath("/mnt/other")])
    with pytest.raises(UnsupportedOption, match="taken"):
        profile.check_target(PurePosixPath("/mnt/data"), [PurePosixPath("/mnt/data")])
