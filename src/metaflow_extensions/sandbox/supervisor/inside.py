"""What a task's sandbox shows and starts: mounts, labels and the guest's command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .. import guest
from ..backends.interface import Command, Mount, SandboxSpec
from ..guest.run import ADDRESS_VARIABLE
from .protocol import RunSettings, TaskSettings
from .reaper import LABEL

INSIDE = PurePosixPath("/run/metaflow-sandbox")
# Options of Metaflow's command for a step that name a file of the launcher, and its name inside.
FILES = {"--local-config-file": "config.json", "--artifacts-module": "artifacts.py"}
RELAY = "relay"  # the relay's socket, in the task's directory and inside


def sandbox_spec(
    run: RunSettings, task: TaskSettings, argv: Sequence[str], code: Path, directory: Path
) -> SandboxSpec:
    """The sandbox for the step's command ``argv``; ``directory`` is the task's own, private."""
    mounts = [
        *task.spec.mounts,
        Mount(code, INSIDE / "code"),
        Mount(directory / RELAY, INSIDE / RELAY, read_only=False),
    ]
    for option, name in FILES.items():
        if option in argv:
            copy = directory / name
            copy.write_bytes(Path(argv[argv.index(option) + 1]).read_bytes())
            # Readable by whoever the backend runs the step as; the directory above is private.
            copy.chmod(0o644)
            mounts.append(Mount(copy, INSIDE / name))
    labels = {**task.spec.labels, LABEL: Path(run.directory).name}
    return dataclasses.replace(task.spec, mounts=mounts, labels=labels)


def guest_command(run: RunSettings, task: TaskSettings, argv: Sequence[str]) -> Command:
    """The guest's command, which starts the step's ``argv`` inside."""
    words = [Path(word).name if word == run.script else word for word in argv]
    for option, name in FILES.items():
        if option in words:
            words[words.index(option) + 1] = str(INSIDE / name)
    python = words[0] = task.executable or words[0]
    bootstrap = Path(guest.__file__).with_name("bootstrap.py")
    return Command(
        [python, "-I", "-S", str(bootstrap), str(INSIDE / "code"), "--", *words],
        env={**task.env, ADDRESS_VARIABLE: f"unix:{INSIDE / RELAY}"},
    )
