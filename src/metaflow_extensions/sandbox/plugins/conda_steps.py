"""Metaflow's own environments in a sandbox: @conda, @pypi and --environment=uv.

Metaflow knows by name which decorators run a step elsewhere (``REMOTE``), in two places. One of them also
heeds two attributes of a decorator, ``supports_conda_environment`` and ``target_platform``, which ours has.
The other would put the launcher's interpreter into the step's command: ``keep_entrypoint`` is for that.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from metaflow.plugins.pypi.utils import MICROMAMBA_MIRROR_URL, MICROMAMBA_URL

from ..errors import PackagesFailed
from ..packages.cache import PackageCache
from ..packages.lock import FORMAT
from ..packages.micromamba import VERSION, find
from ..packages.platforms import of_sandboxes
from ..packages.uv import ask
from ..supervisor.protocol import CondaFiles, Packages

TYPES = ("conda", "pypi")
# The decorators that Metaflow 2.19 knows by name, in conda_decorator.py and in conda_environment.py.
REMOTE = ("batch", "kubernetes", "nvidia", "snowpark", "slurm", "nvct", "skypilot_step")
OFF = ("0", "false", "no", "off")


def keep_entrypoint(decorators: Iterable[Any]) -> None:
    """Let @conda choose no interpreter for the step's command: the sandbox has one of its own."""
    for decorator in decorators:
        if decorator.name == "conda" and not hasattr(decorator, "interpreter"):
            decorator.interpreter = None
            # The instance's own, in the place of the one that looks for REMOTE.
            decorator.runtime_task_created = lambda *_arguments, **_named: None


def target_platform(chosen: str | None, backend: str | None) -> str:
    """What a step's packages are resolved for: only macOS has backends that run macOS itself."""
    return of_sandboxes(chosen, hosted=platform.system() == "Darwin" and backend == "metalbox")


def environment_id(environment: Any, step: Any) -> str | None:
    """The id of the environment that Metaflow has made for a step; None for a step without one."""
    if getattr(environment, "TYPE", None) not in TYPES or not hasattr(environment, "solvers"):
        return None
    found: str | None = environment.get_environment(step).get("id_")
    return found


def conda_packages(
    environment: Any, step: Any, target: str, chosen: str | None, stage: str | None, cache: PackageCache
) -> Packages:
    """The step's packages, as Metaflow has resolved and fetched them for ``target``.

    ``chosen`` and ``stage`` are the settings for micromamba. Raises PackagesFailed for what is not there.
    """
    described = environment.get_environment(step)
    id_, python = described["id_"], described["conda"]["python"]
    files: dict[str, str] = {}
    urls = []
    for kind in TYPES:
        if kind not in described or (kind == "pypi" and not described[kind].get("platforms")):
            continue
        packages = environment.read_from_environment_manifest([id_, target, kind])
        if packages is None:
            raise PackagesFailed(
                f"Metaflow has not resolved the environment of the step {step.name} for {target}: is "
                "METAFLOW_SANDBOX_TARGET_PLATFORM the platform of the sandboxes?"
            )
        kept = environment.solvers[kind].metadata(id_, packages, python, target)
        for package in packages:
            url = package["url"]
            path = kept.get(url) or ""
            files[_name(kind, url, path)] = path
            urls.append(url)
    micromamba = None
    if str(stage or "").lower() not in OFF:
        sources = [MICROMAMBA_MIRROR_URL, MICROMAMBA_URL]
        micromamba = str(
            find(
                target,
                chosen,
                environment.solvers["conda"].bin,
                [source.format(platform=target, version=VERSION) for source in sources],
                cache,
            )
        )
    text = json.dumps([FORMAT, id_, target, sorted(urls)])
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Packages(key, None, CondaFiles(id_, target, [*map(_package, files)], files, micromamba))


def uv_requirements(directory: Path, left_out: Sequence[str]) -> str:
    """What the project's uv.lock says, as a requirements file without the packages ``left_out``."""
    words = [word for name in left_out for word in ("--no-emit-package", name)]
    command = (
        "export",
        "--frozen",
        "--no-dev",
        "--no-emit-project",
        "--no-header",
        "--no-annotate",
        "--quiet",
    )
    return ask(*command, *words, cwd=directory)


def _name(kind: str, url: str, path: str) -> str:
    """The file's name inside: a conda package keeps the folder of its platform, as in a channel."""
    file = Path(path).name or unquote(urlsplit(url).path.rpartition("/")[2])
    return f"conda/{urlsplit(url).path.split('/')[-2]}/{file}" if kind == "conda" else f"pypi/{file}"


def _package(name: str) -> str:
    file = name.rpartition("/")[2]
    for suffix in (".tar.bz2", ".conda", ".whl"):
        file = file.removesuffix(suffix)
    return file
