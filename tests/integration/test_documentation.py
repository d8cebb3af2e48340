"""The shell blocks of README and docs, word for word, in a directory with the README's flow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .harness import TIMEOUT, flow_environment

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- not run: (.+?) -->\n)?```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OTHER_SHELLS = re.compile(r"^```(?:sh|bash|shell|shell-session)$", re.MULTILINE)
INSTALL = re.compile(r"pip install '?metaflow-sandbox(?:\[(\w+)\])?'?$")


@dataclass(frozen=True)
class Block:
    """A block of commands: where it stands, what it says, and why it is not run here, if it is not."""

    page: str
    line: int
    commands: tuple[str, ...]
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every shell block of the documentation."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            lines = block[3].splitlines()
            commands = tuple(line[2:].partition("   #")[0].strip() for line in lines if line.startswith("$ "))
            line = text.count("\n", 0, block.start()) + 1
            found.append(Block(page.relative_to(ROOT).as_posix(), line, commands, block[2]))
    return found


BLOCKS = blocks()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory as the README has its reader make it: the first flow on the page is myflow.py."""
    flow = re.search(r"```python\n(from metaflow.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert flow
    (tmp_path / "myflow.py").write_text(flow[1])
    (tmp_path / ".metaflow").mkdir()
    yield tmp_path
    # The service's page starts one that would stay for five minutes.
    run_command("metaflow-sandbox service stop", tmp_path)


def run_command(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as the reader's shell would."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=place,
        env=flow_environment({"PATH": here, "HOME": str(place)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.why_not is None], ids=str)
def test_commands_work_as_written(block: Block, place: Path) -> None:
    """A newcomer types what stands there; a command that fails is the last one that they try."""
    for command in block.commands:
        if INSTALL.fullmatch(command):
            continue  # what is installed is what is tested; extras are looked at below
        done = run_command(command, place)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"


def test_blocks_are_found() -> None:
    """A pattern that finds no block, or a block without a command, would pass for ever."""
    assert {block.page for block in BLOCKS} >= {"README.md", "docs/service.md", "docs/backends/docker.md"}
    assert [str(block) for block in BLOCKS if not block.commands] == []
    assert sum(block.why_not is None for block in BLOCKS) >= 4
    # One written in another way is not run.
    assert [page.name for page in PAGES if OTHER_SHELLS.search(page.read_text())] == []


def test_extras_exist() -> None:
    """pip passes over an extra that does not exist with a warning, and the backend's SDK is missing."""
    project = (ROOT / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    named = {
        extra
        for page in PAGES
        for extra in re.findall(r"metaflow-sandbox\[(\w+)\]", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert sorted(name for name in named if not re.search(rf"^{name} = ", extras, re.MULTILINE)) == []
