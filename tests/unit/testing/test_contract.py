"""The contract catches the bugs that it is there for: backends with one bug each must fail it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from . import broken_backends

CASES = {f"Test{case.__name__}": test for case, test in broken_backends.CASES.items()}
WHOLE = sorted(set(CASES.values()))
KNOWN = ("TestWronglyKnown", "test_no_output_is_empty")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Which of the chosen tests failed on which backend, from one run in a process of its own."""
    report = tmp_path_factory.mktemp("contract") / "report.xml"
    chosen = [*CASES.items(), *(("TestWhole", test) for test in WHOLE), KNOWN]
    tests = [f"{broken_backends.__file__}::{case}::{test}" for case, test in chosen]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junit-xml={report}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests], cwd=root, env=env, capture_output=True
    )
    assert ran.returncode == 1, ran.stdout.decode() + ran.stderr.decode()
    found: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        key = (case.attrib["classname"].rpartition(".")[2], case.attrib["name"])
        found[key] = found.get(key, "") + "".join(part.tag + (part.text or "") for part in case)
    return found


@pytest.mark.parametrize("case", CASES)
def test_bug_is_caught(outcomes: dict[tuple[str, str], str], case: str) -> None:
    """A contract test that a broken backend passes guards nothing."""
    assert outcomes[case, CASES[case]].startswith(("failure", "error"))


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("TestLeavingFiles", "files"),
        ("TestLeavingDescriptors", "descriptors"),
        ("TestLeavingThreads", "threads"),
        ("TestLeavingOrphans", "processes"),
    ],
)
def test_leak_is_named(outcomes: dict[tuple[str, str], str], case: str, kind: str) -> None:
    """A leak reported as anything else is hard to find."""
    assert f"left behind: {{'{kind}'" in outcomes[case, CASES[case]]


@pytest.mark.parametrize("test", WHOLE)
def test_backend_without_the_bug_passes(outcomes: dict[tuple[str, str], str], test: str) -> None:
    """A test that fails for another reason would seem to catch every bug."""
    assert outcomes["TestWhole", test] == ""


def test_known_failure_that_passes_is_a_failure(outcomes: dict[tuple[str, str], str]) -> None:
    """A known failure that was mended must be taken off the list."""
    assert "believed to fail" in outcomes[KNOWN]
