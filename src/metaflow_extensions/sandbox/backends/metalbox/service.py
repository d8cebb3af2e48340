"""A command as a service of MetalBox: its job, its pipes, and its entry in the configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import StartFailed
from ..interface import Command, SandboxSpec
from . import metal_caps, runner
from .options import Options, hidden, nameable, plain

METAL = "metal"  # beside the commands' directories: what has to be on their search path
_MIB = 1 << 20
# Raw in YAML these are no characters, and one of them anywhere makes all of it unreadable.
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SEARCH = ("/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
_LANG = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"


class Service:
    """One command's directory: ``work``, ``home`` and ``tmp`` are the command's, ``io`` the runner's."""

    def __init__(self, directory: Path, spec: SandboxSpec, options: Options) -> None:
        self.directory = directory
        self.io = directory / "io"
        self._spec = spec
        self._options = options
        for name in ("work", "home", "tmp", "io"):
            (directory / name).mkdir(parents=True)

    def prepare(self, command: Command) -> None:
        """Write the job, readable by this user alone, and make the pipes. Raises StartFailed."""
        job: dict[str, Any] = {
            "argv": list(command.argv),
            "env": self._environment(command),
            "cwd": str(command.cwd or self.directory / "work"),
            "stdin": command.stdin,
        }
        for text in (*job["argv"], *job["env"], *job["env"].values(), job["cwd"]):
            if "\0" in text:
                raise StartFailed("a command, its environment and its directory can't hold NUL characters")
        if not command.argv or any(not name or "=" in name for name in job["env"]):
            raise StartFailed(
                "a command needs a program, and names of its environment can't be empty or hold '='"
            )
        for name in (runner.ALIVE, runner.IN, runner.OUT, runner.ERR):
            os.mkfifo(self.io / name, 0o600)
        job_file = self.io / runner.JOB
        job_file.touch(0o600)
        job_file.write_text(json.dumps(job))
        shutil.copyfile(runner.__file__, self.io / "runner.py")

    def entry(self) -> dict[str, Any]:
        """What the configuration says of it. Raises UnsupportedOption for paths that it can't name."""
        python = Path(sys.executable).resolve()
        resources: dict[str, str] = {"cpus": self._options.cpus}
        sizes = {"memory": self._spec.memory, **self._caps()}
        resources.update({name: f"{size}m" for name, size in sizes.items() if size})
        return {
            # -I and -S: neither the environment nor site-packages have a say in the runner.
            "command": f"{plain(python)} -I -S {plain(self.io / 'runner.py')}",
            "workdir": str(nameable(self.directory)),
            "restart": "no",
            # The runner's own; what it starts has the environment of its job.
            "env": {"HOME": str(self.directory / "home"), "TMPDIR": str(self.directory / "tmp")},
            "resources": resources,
            "sandbox": self._profile(),
        }

    def clear(self) -> None:
        """Remove what the started command must not find."""
        shutil.rmtree(self.io)

    def _profile(self) -> dict[str, Any]:
        links = self._spec.python.roots if self._spec.python else ()
        roots = sorted({Path(sys.base_prefix).resolve(), *(root.resolve() for root in links)})
        own = [self.directory, self.directory.parent / METAL]
        shown = [*links, *roots, *self._options.read_only, *self._options.read_write, *own]
        closed: set[str] = set()
        # MetalBox lets everything be read but a few directories, of a home that here is not the user's.
        for place in (Path.home().resolve(), self.directory.parent.parent):
            closed.update(str(path) for path in hidden(place, shown))
        return {
            "preset": "python",
            "allow_net": self._spec.network == "host",
            "deny_paths": sorted(closed),
            "read_only": [str(nameable(path)) for path in (*roots, *self._options.read_only)],
            "read_write": [str(path) for path in self._options.read_write],
        }

    def _caps(self) -> dict[str, int | None]:
        return {"metal_memory": self._options.metal_memory, "metal_cache": self._options.metal_cache}

    def _environment(self, command: Command) -> dict[str, str]:
        search = [str(self._spec.python.executable.parent)] if self._spec.python else []
        own = {
            "PATH": ":".join([*search, *_SEARCH]),
            "HOME": str(self.directory / "home"),
            "TMPDIR": str(self.directory / "tmp"),
            "LANG": _LANG,
        }
        environment = {**own, **command.env}
        caps = {f"METALBOX_{name.upper()}": size * _MIB for name, size in self._caps().items() if size}
        if caps:
            place = self.directory.parent / METAL
            place.mkdir(exist_ok=True)
            shutil.copyfile(metal_caps.__file__, place / "sitecustomize.py")
            given = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = ":".join([str(place), *([given] if given else [])])
            environment.update({name: str(size) for name, size in caps.items()})
        return environment


def configuration(services: Mapping[str, Any]) -> bytes:
    """MetalBox's YAML of those services: JSON, which it is too."""
    # Not as escapes: YAML knows none for characters beyond the first 65536.
    text = json.dumps({"services": services}, ensure_ascii=False)
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
