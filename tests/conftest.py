"""What every test shares: a skip is a failure where the whole machine is required to be able."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

REQUIRE = "METAFLOW_SANDBOX_TESTS_REQUIRE"


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
