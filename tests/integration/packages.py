"""Places to run flows with packages in: one for each way into a sandbox."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.packages.cache import PackageCache

from .harness import FlowRun, place_flow, run_flow
from .suites import SUITES

INSTALLS = "packages ("  # in the line that says that an environment is made
# Beside the launcher's own Python, mounted beside an image's, and sent to a stand-in for a service.
BACKENDS = ("bubblewrap", "podman", "boxlite")
SERVICES = ("daytona", "e2b")
IMAGES_PYTHON = "3.11"  # Debian's


@dataclass(frozen=True)
class Place:
    """A directory, and settings that choose a backend and a cache there."""

    directory: Path
    settings: Mapping[str, str]

    def run(self, *arguments: str, flow: str = "packages_flow.py", **env: str) -> FlowRun:
        """Run a flow here."""
        script = place_flow(flow, self.directory / "flow")
        return run_flow(script, *arguments, env={**self.settings, **env}, check="FAIL_AT_END" not in env)

    def run_script(self, script: Path, *arguments: str, **env: str) -> FlowRun:
        """Run a flow where it is, whether it fails or not."""
        return run_flow(script, *arguments, env={**self.settings, **env}, check=False)

    @property
    def cache(self) -> PackageCache:
        return PackageCache(Path(self.settings["METAFLOW_SANDBOX_CACHE"]))


@contextlib.contextmanager
def backend_place(
    request: pytest.FixtureRequest, directory: Path, backend: str, own: Mapping[str, str] | None = None
) -> Iterator[Place]:
    """The place for a backend, with settings of one's own."""
    settings = {"METAFLOW_SANDBOX_BACKEND": backend, "METAFLOW_SANDBOX_CACHE": str(directory / "cache")}
    with contextlib.ExitStack() as stack:
        if backend != "bubblewrap":
            suite = SUITES[backend]
            image = suite.image()
            settings |= stack.enter_context(suite.setting(directory, request))
            settings |= {"METAFLOW_SANDBOX_IMAGE": image} if image else {}
            settings["METAFLOW_SANDBOX_UPLOADS"] = json.dumps([*libraries()])
            settings["METAFLOW_SANDBOX_ENV"] = json.dumps({"LD_LIBRARY_PATH": "/opt/libraries"})
            if own is None:
                settings["METAFLOW_SANDBOX_PYTHON"] = IMAGES_PYTHON
        yield Place(directory, {**settings, **(own or {})})


def libraries() -> Iterator[dict[str, str]]:
    """What pandas needs of a system, and the small image has not: this machine's, as files to upload."""
    for name in ("libstdc++.so.6", "libgcc_s.so.1"):
        for found in Path("/usr/lib").glob(f"*-linux-gnu/{name}"):
            yield {"local": str(found), "remote": f"/opt/libraries/{name}"}
