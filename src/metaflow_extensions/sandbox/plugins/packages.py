"""``packages=``, ``requirements=`` and ``python=``: from a step's options to a lock and an interpreter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metaflow import extension_support

from ..backends.interface import Feature, PythonEnvironment, SandboxSpec
from ..backends.python_env import Interpreter, discover
from ..errors import PackagesFailed, UnsupportedOption
from ..packages.cache import PackageCache
from ..packages.platforms import own_python
from ..packages.resolve import Request, resolve
from ..packages.uv import ask
from ..supervisor.protocol import Packages

# Asked of an interpreter that is not the running one, without its site: what python_env has to know.
PREFIXES = """
import json, sys, sysconfig
print(json.dumps([sys.executable, "%d.%d.%d" % sys.version_info[:3],
                  [sys.base_prefix, sys.base_exec_prefix],
                  [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")],
                  [sysconfig.get_config_var("LIBDIR") or "", str(sysconfig.get_config_var("INSTSONAME"))]]))
"""
WAIT = 60.0  # seconds


@dataclass(frozen=True)
class Prepared:
    """What a step's packages change about its sandbox."""

    spec: SandboxSpec
    packages: Packages


def prepare(
    attributes: Mapping[str, Any],
    spec: SandboxSpec,
    features: frozenset[Feature],
    default_image: str | None,
    flow: Path,
    platform: str,
    cache: PackageCache,
    text: str,
) -> Prepared:
    """The step's lock, and its sandbox with the interpreter for it.

    ``flow`` is the flow's directory, ``text`` a requirements file's content besides packages=.
    Raises PackagesFailed for what can't be resolved, UnsupportedOption for what can't be meant.
    """
    hosted = Feature.HOST_PYTHON in features
    wanted = attributes["python"] or own_python()
    if hosted:
        environment, version = _interpreter(wanted, attributes["executable"])
        spec = replace(spec, python=environment)
        interpreter = f"{environment.executable} {version}"
        wanted = version
    else:
        if default_image and not spec.image and attributes["python"]:
            spec = replace(spec, image=default_image.replace(own_python(), minor(wanted)))
        interpreter = f"{attributes['executable'] or 'python3'} of {spec.image or default_image}"
    request = Request(
        [f"{name}{version}" for name, version in (attributes["packages"] or {}).items()],
        text,
        minor(wanted),
        platform,
        flow,
    )
    lock = resolve(request, cache)
    # Metaflow comes along as it is for every step; a second one would stand in its way.
    lock = replace(lock, wheels=tuple(wheel for wheel in lock.wheels if wheel.name not in metaflows_own()))
    return Prepared(spec, Packages(lock.key(interpreter), lock))


def with_conda(
    attributes: Mapping[str, Any], spec: SandboxSpec, features: frozenset[Feature], packages: Packages
) -> Prepared:
    """The sandbox of a step with an environment of conda's: what starts it is another Python."""
    if Feature.HOST_PYTHON in features:
        spec = replace(spec, python=_interpreter(own_python(), attributes["executable"])[0])
    return Prepared(spec, packages)


def metaflows_own() -> list[str]:
    """Names of Metaflow and its extensions, as indexes have them."""
    names = {"metaflow", "metaflow-sandbox", *getattr(extension_support, "_all_packages", {})}
    return sorted(re.sub(r"[-_.]+", "-", name).lower() for name in names)


def minor(version: str) -> str:
    """X.Y of a version."""
    return ".".join(version.split(".")[:2])


def requirements(named: str | None, flow: Path) -> str:
    """The content of a requirements file; "" without one. Raises UnsupportedOption when it can't be read."""
    if named is None:
        return ""
    path = flow / Path(named).expanduser()
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedOption(
            f"requirements={named!r} can't be read ({error}): name a file by its whole path, or by one that "
            "begins beside the flow's"
        ) from error


def _interpreter(version: str, executable: str | None) -> tuple[PythonEnvironment, str]:
    """The Python of this machine that a step's packages are for, and its whole version."""
    program = executable
    if program is None and version in (own_python(), "{}.{}.{}".format(*sys.version_info[:3])):
        program = getattr(sys, "_base_executable", sys.executable)
    if program is None:
        try:
            program = ask(
                "python", "find", "--system", "--no-python-downloads", "--no-project", version
            ).strip()
        except PackagesFailed as error:
            raise PackagesFailed(
                f"python={version!r}: {error}. Install it where PATH or uv finds it (uv python install "
                f"{version}), or name one with executable="
            ) from error
    try:
        said = subprocess.run(
            [program, "-I", "-S", "-c", PREFIXES], capture_output=True, text=True, check=True, timeout=WAIT
        ).stdout
        found, whole, prefixes, provided, (directory, library) = json.loads(said)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise PackagesFailed(f"{program} does not run as a Python: {error}") from error
    if minor(version) != minor(whole) and executable is None:
        raise PackagesFailed(f"{program} is Python {whole}, not {version}: name another with executable=")
    shared = Path(directory, library)
    described = Interpreter(
        Path(found).resolve(),
        tuple(map(Path, dict.fromkeys(prefixes))),
        tuple(map(Path, dict.fromkeys(provided))),
        libraries=(shared,) if library.endswith((".so", ".1.0")) and shared.exists() else (),
    )
    return discover(sys_path=(), interpreter=described), whole
