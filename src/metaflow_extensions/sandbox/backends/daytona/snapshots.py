"""Snapshots with a step's packages: one sandbox gets them, and is kept as what the others are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import daytona

from ...errors import CommandTimeout, SandboxError, UnsupportedOption
from ..built_once import BuiltOnce
from ..default_image import DEFAULT_IMAGE
from ..interface import SandboxSpec
from ..layers import add
from . import failures
from .client import ANSWER, call, client
from .parameters import UNITS
from .sandbox import DaytonaSandbox

MAKING = 1800.0  # seconds for Daytona to keep a sandbox as a snapshot
APPEARS = 60.0  # seconds in which a snapshot whose sandbox is done with it shows up
LOOK_EVERY = 1.0  # seconds
ROOT = "root"
FAILED = ("error", "build_failed")
FORBIDDEN = 403
Make = Callable[[SandboxSpec, "str | None"], DaytonaSandbox]
"""Makes a sandbox of a spec without a layer, for a user of its image or the default one."""


class _NotKept(SandboxError):
    """Daytona keeps no such snapshot."""


class Snapshots:
    """What this process knows of the organization's snapshots."""

    def __init__(self) -> None:
        self._built = BuiltOnce()
        self._not_kept: set[str] = set()

    def open(self, spec: SandboxSpec, make: Make) -> DaytonaSandbox:
        """A sandbox with its spec's layer; one that can't be kept as a snapshot gets the files by itself."""
        assert spec.layer
        plain = dataclasses.replace(spec, layer=None)
        name = name_of(spec)
        if "snapshot" in spec.options or name in self._not_kept:
            return add(make(plain, None), spec.layer)
        try:
            try:
                return self._from_snapshot(name, spec, make)
            except UnsupportedOption as error:
                # Somebody deleted it.
                if name not in str(error):
                    raise
                return self._from_snapshot(name, spec, make, anew=True)
        except _NotKept as error:
            self._not_kept.add(name)
            _teller(spec)(f"{error}: the step's packages are sent to each of its sandboxes")
            return add(make(plain, None), spec.layer)

    def _from_snapshot(
        self, name: str, spec: SandboxSpec, make: Make, *, anew: bool = False
    ) -> DaytonaSandbox:
        self._built.ensure(name, lambda: is_there(name, spec), lambda: build(name, spec, make), anew=anew)
        options = {**spec.options, "snapshot": name}
        # It has its image and sizes.
        without = {"layer": None, "image": None, "cpu": None, "memory": None, "disk": None}
        return make(dataclasses.replace(spec, options=options, **without), None)  # type: ignore[arg-type]


def name_of(spec: SandboxSpec) -> str:
    """The same for all of the organization's keys, which can read each other's sandboxes anyhow."""
    assert spec.layer
    asked = {
        "image": spec.image or DEFAULT_IMAGE,
        "sizes": [spec.cpu, spec.memory, spec.disk],
        "layer": spec.layer.key,
        "target": spec.options.get("target"),
    }
    return "metaflow-sandbox-" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:20]


def build(name: str, spec: SandboxSpec, make: Make) -> None:
    """Make it, and tell of it. Raises _NotKept, or what keeps a sandbox from being made or filled."""
    assert spec.layer
    tell, image = _teller(spec), spec.image or DEFAULT_IMAGE
    tell(
        f"Daytona makes the snapshot {name} of {image}, with the step's packages: "
        "once, for all steps that ask for the same"
    )
    begin = time.monotonic()
    # It takes longer than some steps may.
    sandbox = add(make(dataclasses.replace(spec, layer=None, lifetime=None), ROOT), spec.layer)
    try:
        try:
            sandbox.keep_as(name, MAKING)
        except (daytona.DaytonaError, CommandTimeout) as error:
            # Otherwise another run makes it, too, or the answer was lost.
            if failures.is_definite(error):
                raise _NotKept(f"Daytona keeps no snapshot {name} ({error})") from error
        if not _appears(name, spec):
            raise _NotKept(f"Daytona lists no snapshot {name}")
    finally:
        try:
            sandbox.close()
        except SandboxError as error:
            tell(str(error))  # nothing is wrong with the snapshot
    tell(f"Daytona has made the snapshot {name} in {time.monotonic() - begin:.0f} s")


def is_there(name: str, spec: SandboxSpec) -> bool:
    """Whether it can be used, once whoever makes it is done. Raises _NotKept for one of other sizes."""
    deadline = time.monotonic() + MAKING
    try:
        while (found := _get(name)) and found.state.value not in ("active", *FAILED):
            if found.state.value == "inactive":
                call(lambda: client().snapshot.activate(found), ANSWER)
            if time.monotonic() > deadline:
                raise _NotKept(f"Daytona's snapshot {name} stays {found.state.value}")
            time.sleep(LOOK_EVERY)
        if found and found.state.value in FAILED:
            call(lambda: client().snapshot.delete(found), ANSWER)
            return False
    except (daytona.DaytonaError, CommandTimeout) as error:
        if getattr(error, "status_code", None) == FORBIDDEN:
            raise _NotKept(f"Daytona keeps no snapshots for this key ({error})") from error
        raise failures.refused(error) from error
    if found:
        _check_sizes(found, spec)
    return found is not None


def _appears(name: str, spec: SandboxSpec) -> bool:
    deadline = time.monotonic() + APPEARS
    while not is_there(name, spec):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY)
    return True


def _teller(spec: SandboxSpec) -> Callable[[str], None]:
    return spec.tell or (lambda _line: None)


def _get(name: str) -> Any:
    """The SDK's snapshot, None where there is none."""
    try:
        return call(lambda: client().snapshot.get(name), ANSWER)
    except daytona.DaytonaNotFoundError:
        return None


def _check_sizes(found: Any, spec: SandboxSpec) -> None:
    has = {"cpu": found.cpu, "memory": found.mem, "disk": found.disk}
    for limit, unit in UNITS.items():
        asked = getattr(spec, limit)
        if asked is not None and has[limit] * unit != asked:
            raise _NotKept(
                f"Daytona's snapshot {found.name} has {limit}={has[limit] * unit:g}, not {asked:g}"
            )
