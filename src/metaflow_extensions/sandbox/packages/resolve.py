"""From what a step asks for to a lock, by uv; an answer is used for a day."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import PackagesFailed
from .cache import PackageCache
from .lock import Lock, Wheel
from .platforms import uv_name
from .uv import ask

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FRESH = 24 * 3600.0  # seconds that a resolution is used again
NESTED = re.compile(r"\s*(-r|-c|-e|--requirement|--constraint|--editable)\b|.*\bfile:", re.MULTILINE)
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*==[^#\n]*?((?:\s*--hash[= ]\S+)+)", re.MULTILINE)
HASH = re.compile(r"--hash[= ]sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Request:
    """What a step asks for: requirements, lines of a requirements file, a Python (X.Y) and a platform.

    ``directory`` is where nested files and uv's own settings are looked for.
    """

    requirements: Sequence[str]
    file: str
    python: str
    platform: str
    directory: Path

    @property
    def text(self) -> str:
        """All of it as one requirements file."""
        return "\n".join([*self.requirements, self.file, ""])

    @property
    def name(self) -> str | None:
        """What the answer is kept as; None where it depends on files that are not looked into here."""
        if NESTED.search(self.text):
            return None
        settings = {name: value for name, value in os.environ.items() if name.startswith("UV_")}
        own = [self.directory / name for name in ("uv.toml", "pyproject.toml")]
        files = [path.read_text(errors="replace") for path in own if path.is_file()]
        asked = json.dumps([self.text, self.python, self.platform, settings, files], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:32]


def resolve(request: Request, cache: PackageCache) -> Lock:
    """The lock. Raises PackagesFailed for what no index has, or has for this platform."""
    kept = cache.resolved(request.name)
    if kept and kept.exists() and time.time() - kept.stat().st_mtime < FRESH:
        return Lock.from_json(json.loads(kept.read_text()))
    lock = _ask(request)
    if kept:
        with cache.writing():
            cache.keep_resolved(kept, json.dumps(lock.as_json()))
    return lock


def _ask(request: Request) -> Lock:
    if not request.text.strip():
        return Lock(request.python, request.platform, ())
    command = ["pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    command += ["--format", "pylock.toml", "--python-version", request.python, "--no-python-downloads"]
    command += ["--python-platform", uv_name(request.platform)]
    try:
        answer = ask(*command, given=request.text, cwd=request.directory)
    except PackagesFailed as error:
        raise PackagesFailed(
            f"the step's packages can't be resolved for Python {request.python} on {request.platform}: "
            f"{error}\nOnly packages with wheels can be installed: correct packages= or requirements=, and "
            "name another index with UV_DEFAULT_INDEX or UV_INDEX"
        ) from error
    lock = Lock(request.python, request.platform, tuple(_wheels(tomllib.loads(answer), request.directory)))
    _compare(lock, request.text)
    return lock


def _wheels(answer: Mapping[str, Any], directory: Path) -> list[Wheel]:
    found = []
    for package in answer.get("packages", []):
        candidates = [
            (unquote(urlsplit(each.get("url") or each["path"]).path.rpartition("/")[2]), each)
            for each in [*package.get("wheels", []), *filter(None, [package.get("archive")])]
        ]
        if not candidates:
            raise PackagesFailed(
                f"{package['name']} has no wheel for this platform, and packages are not built here: choose "
                "another version, or an image that has it"
            )
        filename, wheel = max(candidates, key=lambda each: _rank(each[0]))
        url = wheel.get("url") or (directory / wheel["path"]).resolve().as_uri()
        digest = wheel.get("hashes", {}).get("sha256")
        if not digest or not filename.endswith(".whl"):
            raise PackagesFailed(
                f"{package['name']} comes as {filename} without a SHA-256: the index has to give one, and a "
                "wheel"
            )
        found.append(Wheel(package["name"], package.get("version", ""), filename, url, digest))
    return sorted(found, key=lambda wheel: wheel.name)


def _rank(filename: str) -> tuple[bool, bool, bool, list[int]]:
    """Of wheels that all fit, the most particular one comes last, as with pip."""
    python, abi, place = filename.removesuffix(".whl").split("-")[-3:]
    versions = [int(part) for part in re.findall(r"\d+", place.rpartition(".")[2])]
    return place != "any", python.startswith("cp"), abi not in ("abi3", "none"), versions


def _compare(lock: Lock, text: str) -> None:
    """Raise PackagesFailed when the requirements pin hashes, and the index has another file."""
    for name, hashes in PINNED.findall(text.replace("\\\n", " ")):
        allowed = set(HASH.findall(hashes))
        for wheel in lock.wheels:
            if wheel.name == re.sub(r"[-_.]+", "-", name).lower() and wheel.sha256 not in allowed:
                raise PackagesFailed(
                    f"{wheel.filename} has the hash sha256:{wheel.sha256}, which is none of those that the "
                    f"requirements allow for {name}: was it changed? Else allow it with --hash"
                )
