"""What every test shares: a skip is a failure where the whole machine is required to be able."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Generator

import pytest

REQUIRE = "METAFLOW_SANDBOX_TESTS_REQUIRE"
CLONE_NEWNS = 0x20000  # linux/sched.h
# They have tests that take a minute or more, most of it waiting.
SLOW = (
    "test_flows_e2b.py",
    "test_metadata_comparison.py",
    "test_flows_large.py",
    "test_machines_together.py",
    "test_boxlite_here.py",
    "test_microsandbox_here.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers mounts of its own: what one test mounts is no leak of another's."""
    # A shell's background jobs ignore it, and so would all that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput") or os.geteuid() or not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that take longest: what several workers begin last is waited for alone."""
    items.sort(key=lambda item: item.path.name not in SLOW)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, None]:
    """Turn a skip into a failure where METAFLOW_SANDBOX_TESTS_REQUIRE=all."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's Result
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get(REQUIRE) != "all":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{REQUIRE}=all, and this part cannot run here: {reason}"
