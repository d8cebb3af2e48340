"""What a container may see, write and use."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from docker.types import DeviceRequest, Mount, Ulimit

from ...errors import StartFailed, UnsupportedOption
from ..interface import Command, Feature, SandboxSpec
from ..interface import Mount as SpecMount
from .engine import Engine

DISK = 1024  # MiB when the step does not say
PROCESSES = 1024
SHARED_MEMORY = 64  # MiB, at most
FILES = 65536
THREADS = 16384  # of all containers; Podman 4 lowers its own limit to 32768
USER = "65534:65534"  # nobody, who owns nothing
WORK, HOME, TMP = "/sandbox/work", "/sandbox/home", "/tmp"
SHARES = {WORK: 4, TMP: 2, HOME: 1, "/var/tmp": 1}  # eighths of the disk
# Podman would make it a writable file system as large as half the memory.
RUN = {"/run": "rw,nosuid,nodev,noexec,mode=755,size=64k"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ADDED = ("HOSTNAME", "TERM", "container", "OLDPWD", "_")
MIB = 1 << 20
SANDBOX_LABEL = "metaflow-sandbox.id"
LABEL = "metaflow-sandbox.label."  # before the names of the step's own labels


def host_config(engine: Engine, spec: SandboxSpec, files: Mapping[PurePosixPath, Path]) -> Mapping[str, Any]:
    """The engine's HostConfig; ``files`` are copies to be mounted read-only, by target."""
    disk = spec.disk or DISK
    mounts = [*spec.mounts, *(SpecMount(source, target) for target, source in files.items())]
    config: Mapping[str, Any] = engine.client.create_host_config(
        network_mode=network_mode(spec),
        mounts=[_mount(mount, quoted=engine.is_podman) for mount in mounts],
        tmpfs={
            **RUN,
            **{
                place: f"rw,nosuid,nodev,exec,mode=1777,size={disk * MIB * eighths // 8}"
                for place, eighths in SHARES.items()
            },
        },
        shm_size=min(disk, SHARED_MEMORY) * MIB,
        read_only=True,
        privileged=False,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,
        pids_limit=spec.processes or (PROCESSES if Feature.PROCESS_LIMIT in engine.limits else None),
        mem_limit=spec.memory * MIB if spec.memory else None,
        memswap_limit=spec.memory * MIB if spec.memory else None,
        nano_cpus=int(spec.cpu * 1_000_000_000) if spec.cpu else None,
        ulimits=[*_ulimits()],
        oom_score_adj=500,
        device_requests=[DeviceRequest(count=spec.gpu, capabilities=[["gpu"]])] if spec.gpu else None,
    )
    return config


def network_mode(spec: SandboxSpec) -> str:
    """none, the host's own, or the network of the engine that the options name."""
    named = spec.options.get("network")
    if named is not None and spec.network != "host":
        raise UnsupportedOption(
            f"backend_options network={named!r} opens the network, and the step's is {spec.network!r}: say "
            "network='host' as well, or leave it out"
        )
    return str(named) if named is not None else "host" if spec.network == "host" else "none"


def environment(command: Command, image: Mapping[str, Any]) -> list[str]:
    """NAME=value; what the image sets besides is kept."""
    path = of_image(image).get("PATH", PATH)
    ours = {"PATH": path, "HOME": HOME, "TMPDIR": TMP, "LANG": "C.UTF-8"}
    for name, value in command.env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"{name!r} is no environment variable, or its value holds a NUL")
    return [f"{name}={value}" for name, value in {**ours, **command.env}.items()]


def of_image(image: Mapping[str, Any]) -> dict[str, str]:
    """The variables that an image sets."""
    entries = (image.get("Config") or {}).get("Env") or []
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def words(command: Command, image: Mapping[str, Any]) -> list[str]:
    """The whole command line: the image's shell tells a missing directory or program, which an init may not.

    What engines and the shell add to the environment is taken away again.
    """
    if not command.argv or any("\0" in word for word in (*command.argv, str(command.cwd))):
        raise ValueError("a command needs at least one word, and no word may hold a NUL")
    if not command.argv[0] or command.argv[0].startswith("-"):
        raise StartFailed(f"no program is called {command.argv[0]!r}")
    added = [name for name in ADDED if name not in command.env and name not in of_image(image)]
    script = f'cd -- "$0" || exit 125; unset {" ".join(added)}; exec "$@"'
    return ["/bin/sh", "-c", script, str(command.cwd or WORK), *command.argv]


def check_mounts(mounts: Sequence[SpecMount]) -> None:
    """Raise UnsupportedOption for a target that is doubtful, FileNotFoundError for an absent source."""
    targets = [mount.target for mount in mounts]
    for number, mount in enumerate(mounts):
        check_target(mount.target, [*targets[:number], *targets[number + 1 :]])
        if not mount.source.exists():
            raise FileNotFoundError(f"there is nothing at {mount.source} to be mounted")


def check_target(target: PurePosixPath, taken: Sequence[PurePosixPath]) -> None:
    """Raise UnsupportedOption unless something can be put there."""
    if (
        not target.is_absolute()
        or ".." in target.parts
        or "\0" in str(target)
        or target == PurePosixPath("/")
    ):
        raise UnsupportedOption(f"target {str(target)!r} must be an absolute path without '..' or NUL")
    kept = (*map(PurePosixPath, ("/proc", "/sys", "/dev")),)
    if any(place == target or place in target.parents for place in kept) or str(target) in SHARES:
        raise UnsupportedOption(f"target {target} is the container's own: choose one below {WORK} or /mnt")
    if target in taken:
        raise UnsupportedOption(f"target {target} is taken by another mount: choose another one")


def _mount(mount: SpecMount, *, quoted: bool) -> Mount:
    """For Podman, which makes one line of comma-separated values of it, quoted where it needs be."""
    source, target = str(mount.source), str(mount.target)
    if quoted and any(character in source + target for character in ',"\n'):
        source, target = _quoted("source", source), _quoted("target", target)
    return Mount(target, source, "bind", read_only=mount.read_only)


def _quoted(name: str, value: str) -> str:
    """A value and after it the field once more, since quotes enclose its name too: the last one counts."""
    return '/,"{}={}"'.format(name, value.replace('"', '""'))


def _ulimits() -> list[Ulimit]:
    """Named, because an engine without CAP_SYS_RESOURCE can't set its defaults; never above our own."""
    limits = {"core": 0, "nofile": _at_most(resource.RLIMIT_NOFILE, FILES)}
    if sys.platform.startswith("linux"):
        # Counted for the user on the whole machine: the container's own number is limited by pids_limit.
        limits["nproc"] = _at_most(resource.RLIMIT_NPROC, THREADS)
    return [Ulimit(name=name, soft=value, hard=value) for name, value in limits.items()]


def _at_most(kind: int, value: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)
