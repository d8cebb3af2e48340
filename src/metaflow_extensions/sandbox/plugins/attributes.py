"""The decorator's attributes: strings from the command line or the environment become typed values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HOST_NAME = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.\-*]*[A-Za-z0-9])?(:\d+)?")
PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._, -]+\])?")
VERSION = re.compile(r"[A-Za-z0-9.*+!=<>~, -]+")
PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
# A secret for every host there is would be none.
SECRET_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?")
NETWORKS = ("none", "host", "public")
ISOLATIONS = ("process", "container", "vm")
DATASTORE_ACCESS = ("relay", "direct")
ON_FAILURE = "on-failure"
KEEP = ("never", ON_FAILURE)
MOUNTS = 'is "/here:/inside", "/here:/inside:rw", or a list of these or of {"local", "remote", "mode"}'

# The attributes and their units, in the order of the documentation.
ATTRIBUTES = (
    "backend",
    "image",
    "cpu",
    "memory",
    "disk",
    "gpu",
    "timeout",
    "env",
    "mounts",
    "packages",
    "requirements",
    "python",
    "secrets",
    "network",
    "isolation",
    "executable",
    "datastore_access",
    "backend_options",
    "keep",
)


class InvalidAttribute(ValueError):
    """The value of an attribute cannot be meant; the message says what can."""


def _number(value: Any, unit: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number <= 0:
        raise InvalidAttribute(f"is a number of {unit} above 0, such as {unit_example(unit)}")
    return number


def unit_example(unit: str) -> str:
    """A plausible value, for a message."""
    return {"cores": "2 or 0.5", "MiB": "4096 for 4 GiB", "seconds": "3600 for an hour"}[unit]


def cores(value: Any) -> float:
    """Cores, a fraction allowed."""
    return _number(value, "cores")


def mebibytes(value: Any) -> int:
    """MiB, whole."""
    number = _number(value, "MiB")
    if number != int(number):
        raise InvalidAttribute("is a whole number of MiB, such as 4096 for 4 GiB")
    return int(number)


def seconds(value: Any) -> float:
    """Seconds."""
    return _number(value, "seconds")


def count(value: Any) -> int:
    """A count, 0 allowed."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number < 0 or number != int(number):
        raise InvalidAttribute("is a whole number, 0 or more")
    return int(number)


def text(value: Any) -> str:
    """Text without NUL."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidAttribute("is a non-empty string")
    return value.strip()


def one_of(*choices: str) -> Callable[[Any], str]:
    """A parser that takes one of the words."""

    def parse(value: Any) -> str:
        if value not in choices:
            raise InvalidAttribute(f"is one of {', '.join(choices)}")
        return str(value)

    return parse


def mapping(value: Any) -> dict[str, Any]:
    """A dictionary with string keys, or its JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidAttribute('is a dictionary with string keys, or its JSON: {"NAME": "value"}')
    return dict(value)


def environment(value: Any) -> dict[str, str]:
    """Environment variables."""
    variables = mapping(value)
    for name, content in variables.items():
        if not ENV_NAME.fullmatch(name):
            raise InvalidAttribute(f"names the variable {name!r}: letters, digits and _ only")
        if isinstance(content, bool) or not isinstance(content, (str, int, float)) or "\0" in str(content):
            raise InvalidAttribute(f"gives {name} a value that is neither text nor a number")
    return {name: str(content) for name, content in variables.items()}


def mounts(value: Any) -> list[dict[str, str]]:
    """What of the launcher's is shown inside, each as local, remote and mode; places are checked later."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    entries = [value] if isinstance(value, (str, Mapping)) else value
    if not isinstance(entries, (list, tuple)):
        raise InvalidAttribute(MOUNTS)
    return [_mount(entry) for entry in entries]


def _mount(entry: Any) -> dict[str, str]:
    if isinstance(entry, str):
        entry = dict(zip(("local", "remote", "mode"), entry.split(":", 2)))  # noqa: B905 -- the mode may be left out
    if not isinstance(entry, Mapping) or not {"local", "remote"} <= {*entry} <= {"local", "remote", "mode"}:
        raise InvalidAttribute(MOUNTS)
    mount = {"mode": "ro", **entry}
    if mount["mode"] not in ("ro", "rw") or not all(is_path(mount[side]) for side in ("local", "remote")):
        raise InvalidAttribute(MOUNTS)
    return mount


def is_path(value: Any) -> bool:
    """Whether it can be the text of a path."""
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def packages(value: Any) -> dict[str, str]:
    """Names of packages and their versions, as specifiers; an empty one is any version."""
    named = mapping(value)
    for name, version in named.items():
        if not PACKAGE.fullmatch(name) or not isinstance(version, (str, type(None))):
            raise InvalidAttribute(f'names {name!r}: {version!r}; packages are {{"pandas": "2.2.3"}}')
        if version and not VERSION.fullmatch(version):
            raise InvalidAttribute(f'names {name} {version!r}; versions are "2.2.3", ">=2,<3" or ""')
    return {name: _specifier(version or "") for name, version in named.items()}


def _specifier(version: str) -> str:
    plain = version.replace(" ", "")
    if plain in ("", "*"):
        return ""
    return plain if plain[0] in "<>=!~" else f"=={plain}"


def python_version(value: Any) -> str:
    """A version of Python 3, as X.Y or X.Y.Z."""
    if not isinstance(value, str) or not PYTHON.fullmatch(value.strip()):
        raise InvalidAttribute('is a version of Python as text, such as "3.12"')
    return value.strip()


def secrets(value: Any) -> dict[str, tuple[str, ...]]:
    """Names of the launcher's environment variables, each with the hosts that its value may be sent to."""
    hosts_of = mapping(value)
    for name, hosts in hosts_of.items():
        if not ENV_NAME.fullmatch(name):
            raise InvalidAttribute(f"names the variable {name!r}: letters, digits and _ only")
        listed = [hosts] if isinstance(hosts, str) else hosts
        if (
            not isinstance(listed, (list, tuple))
            or not listed
            or not all(isinstance(host, str) and SECRET_HOST.fullmatch(host) for host in listed)
        ):
            raise InvalidAttribute(
                f"gives {name} something else than names of hosts: api.example.org, *.example.org"
            )
        hosts_of[name] = tuple(listed)
    return hosts_of


def network(value: Any) -> str | tuple[str, ...]:
    """One of the networks' names, or host names that may be reached."""
    if isinstance(value, str):
        if value in NETWORKS:
            return value
        value = [part.strip() for part in value.split(",")] if "." in value else None
    if (
        not isinstance(value, (list, tuple))
        or not value
        or not all(isinstance(host, str) and HOST_NAME.fullmatch(host) for host in value)
    ):
        raise InvalidAttribute('is "none", "host", "public" or a list of host names')
    return tuple(value)


PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "backend": text,
    "image": text,
    "cpu": cores,
    "memory": mebibytes,
    "disk": mebibytes,
    "gpu": count,
    "timeout": seconds,
    "env": environment,
    "mounts": mounts,
    "packages": packages,
    "requirements": text,
    "python": python_version,
    "secrets": secrets,
    "network": network,
    "isolation": one_of(*ISOLATIONS),
    "executable": text,
    "datastore_access": one_of(*DATASTORE_ACCESS),
    "backend_options": mapping,
    "keep": one_of(*KEEP),
}


def asks_for_packages(attributes: Mapping[str, Any]) -> bool:
    """Whether a step asks for packages or a Python of its own; an empty mapping asks for a bare one."""
    return any(attributes[name] is not None for name in ("packages", "requirements", "python"))


def parse(name: str, value: Any) -> Any:
    """The typed value of attribute ``name``; None stays None. Raises InvalidAttribute."""
    return None if value is None else PARSERS[name](value)
