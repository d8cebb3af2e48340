"""What may be put where in a container, and what a command finds in its environment."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends.container_places import check_target, check_words, variables
from metaflow_extensions.sandbox.backends.interface import Command
from metaflow_extensions.sandbox.errors import UnsupportedOption


@pytest.mark.parametrize(
    "target",
    ["file", "/", "/a/../b", "/a\0b", "/proc/x", "/sys", "/dev/null", "/sandbox/work", "/run/sandbox/x"],
)
def test_doubtful_target_is_refused(target: str) -> None:
    """Guards the container's own places against being replaced."""
    with pytest.raises(UnsupportedOption):
        check_target(PurePosixPath(target), [])


def test_taken_target_is_refused() -> None:
    """Guards against one mount that hides another."""
    check_target(PurePosixPath("/mnt/a"), [PurePosixPath("/mnt/b")])
    with pytest.raises(UnsupportedOption):
        check_target(PurePosixPath("/mnt/a"), [PurePosixPath("/mnt/a")])


@pytest.mark.parametrize(
    "command", [Command([]), Command(["a\0"]), Command(["a"], env={"b": "\0"})], ids=["none", "argv", "env"]
)
def test_impossible_words_are_refused(command: Command) -> None:
    """Guards against words that are cut short on their way."""
    with pytest.raises(ValueError, match="NUL"):
        check_words(command)


@pytest.mark.parametrize("name", ["", "a=b"])
def test_impossible_names_are_refused(name: str) -> None:
    """Guards against a variable that becomes another one."""
    with pytest.raises(ValueError, match="without '='"):
        variables(Command(["a"], env={name: "x"}))


def test_given_variables_win() -> None:
    """Guards a step's own PATH."""
    assert variables(Command(["a"], env={"PATH": "/mine"}))["PATH"] == "/mine"
