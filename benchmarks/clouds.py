"""What a step in a cloud's sandbox costs besides the cloud: over the tests' stand-ins, by the relay.

A stand-in makes a sandbox at once; what that takes with the SDK alone is measured apart, and taken away.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from .artifacts import BACK, OUT, both_ways
from .disks import with_disks_in_memory
from .images import STEPS, turns
from .measure import Series, run_flow, series
from .report import Row

LIMIT = 0.5  # seconds a task
OF_PIP = 0.2  # of what installing the dependencies in each step would take
OF_THE_SDK = 2.0  # times what the SDK takes for a file of that size
PACKAGES = ("metaflow", "boto3")  # what Metaflow's own remote steps install
SIZE = 64 << 20  # bytes
CREATION = 60  # seconds


def steps_in_clouds(directory: Path, repeat: int) -> list[Row]:
    """Rows for each cloud: a step, the same against pip, and a large artifact."""
    from tests.integration.clouds import CLOUDS, running_cloud

    rows = []
    for name in CLOUDS:
        with with_disks_in_memory(running_cloud(name)) as cloud:
            settings = {**cloud.settings, "METAFLOW_SANDBOX_IMAGE": "python:3.11-slim"}
            rows += steps(name, settings, directory, repeat)
            rows += large_artifact(name, settings, directory, repeat)
    return rows


def steps(name: str, settings: Mapping[str, str], directory: Path, repeat: int) -> list[Row]:
    sdk = SDKS[name](settings)

    def created() -> float:
        begin = perf_counter()
        sandbox = sdk.make()
        seconds = perf_counter() - begin
        sdk.end(sandbox)
        return seconds

    def chain(sandboxed: int) -> float:
        environment = {**settings, "CHAIN_SANDBOXED": str(sandboxed)}
        return run_flow("chain.py", "run", directory=directory, environment=environment).seconds

    measured = turns(repeat, lambda: chain(0), lambda: chain(1), lambda: chain(STEPS), installed, created)
    plain, first, every, pip, creation = (Series(tuple(times)) for times in measured)
    low, median = (
        (getattr(every, at) - getattr(first, at)) / (STEPS - 1) - getattr(creation, at)
        for at in ("low", "median")
    )
    added = f"{low * 1000:.0f} ms and {creation.low * 1000:.0f} ms for a creation by the SDK"
    return [
        Row(
            f"a step in {name}, by the relay, above a plain one",
            f"{plain.low / STEPS * 1000:.0f} ms ±{plain.spread:.0%}",
            added,
            low,
            "s",
            LIMIT,
            repeat,
            median,
        ),
        Row(
            f"the same, against pip install {' '.join(PACKAGES)}",
            f"{pip.low:.1f} s ±{pip.spread:.0%}",
            added,
            low / pip.low,
            "x",
            OF_PIP,
            repeat,
            median / pip.median,
        ),
    ]


@dataclass(frozen=True)
class Sdk:
    """A cloud's SDK by itself: makes a sandbox, writes a file of this machine into it, ends it."""

    make: Callable[[], Any]
    write: Callable[[Any, Path], Any]
    end: Callable[[Any], Any]


def of_e2b(settings: Mapping[str, str]) -> Sdk:
    import e2b

    from metaflow_extensions.sandbox.backends.async_calls import loop
    from metaflow_extensions.sandbox.backends.e2b.templates import Recipe, Templates

    os.environ.update(settings)
    template = Templates().ensure(Recipe(settings["METAFLOW_SANDBOX_IMAGE"], 2, 1024, None), None)

    def write(sandbox: Any, path: Path) -> None:
        with path.open("rb") as file:
            loop().call(lambda: sandbox.files.write("/tmp/file", file, use_octet_stream=True), CREATION)

    return Sdk(
        lambda: loop().call(lambda: e2b.AsyncSandbox.create(template, timeout=60), CREATION),
        write,
        lambda sandbox: loop().call(sandbox.kill, CREATION),
    )


def of_daytona(settings: Mapping[str, str]) -> Sdk:
    import daytona

    os.environ.update(settings)
    sdk = daytona.Daytona()
    asked = daytona.CreateSandboxFromImageParams(image=settings["METAFLOW_SANDBOX_IMAGE"])
    return Sdk(
        lambda: sdk.create(asked, timeout=CREATION),
        lambda sandbox, path: sandbox.fs.upload_file(str(path), "/tmp/file"),
        lambda sandbox: sandbox.delete(),
    )


SDKS = {"e2b": of_e2b, "daytona": of_daytona}


def installed() -> float:
    """Seconds that pip takes from its own cache, which no sandbox would have."""
    with tempfile.TemporaryDirectory() as target:
        begin = perf_counter()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", target, *PACKAGES]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return perf_counter() - begin


def large_artifact(name: str, settings: Mapping[str, str], directory: Path, repeat: int) -> list[Row]:
    file = Series(tuple(sent(name, settings, directory) for _ in range(repeat)))
    plain, sandboxed = both_ways("incompressible", directory, repeat, settings)
    rows = []
    for direction, read in (("out", OUT), ("in", BACK)):
        here, there = series(plain, read), series(sandboxed, read)
        rows.append(
            Row(
                f"64 MiB artifact {direction} of {name}, above a plain step's, against a file by its SDK",
                f"{file.low:.2f} s ±{file.spread:.0%}",
                f"{there.low - here.low:.2f} s ±{there.spread:.0%}",
                (there.low - here.low) / file.low,
                "x",
                OF_THE_SDK,
                repeat,
                (there.median - here.median) / file.median,
            )
        )
    return rows


def sent(name: str, settings: Mapping[str, str], directory: Path) -> float:
    """Seconds that the SDK takes to put a file of 64 MiB into a sandbox."""
    file = directory / "file"
    file.write_bytes(os.urandom(SIZE))
    sdk = SDKS[name](settings)
    sandbox = sdk.make()
    try:
        begin = perf_counter()
        sdk.write(sandbox, file)
        return perf_counter() - begin
    finally:
        sdk.end(sandbox)
