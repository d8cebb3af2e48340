"""docs/adding-a-backend.md as a reader would follow it: its files, its contract, its flow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .harness import run_flow

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-backend.md"
FILE = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the files of the page."""
    for name, text in FILE.findall(PAGE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_backend_of_the_tutorial_keeps_the_contract(place: Path) -> None:
    """A tutorial whose backend fails the contract teaches its readers to."""
    report = place / "report.xml"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"],
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    (suite,) = ElementTree.parse(report).iter("testsuite")
    assert int(suite.attrib["tests"]) > 100


def test_flow_of_the_tutorial_runs(place: Path) -> None:
    """The last step of the page is what its reader came for."""
    done = run_flow(place / "plainflow.py", "run", env={"PYTHONPATH": str(place)})
    assert "[sandbox] plainbox:PlainBackend" in done.output
    assert re.search(r"its home was \S+/plainbox-[0-9a-f]{32}/home", done.output)
