"""Which sandboxes the options of a command choose."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest

from metaflow_extensions.sandbox.commands import sandboxes


def wanted(*words: str, flow: str | None = None) -> dict[str, str]:
    """The labels that a command line asks for, behind a flow's file where one is named."""
    parser = argparse.ArgumentParser()
    sandboxes.add_arguments(parser)
    options = parser.parse_args(words)
    options.context = SimpleNamespace(name=flow) if flow else None
    return sandboxes.wanted(options)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ((), {}),
        (("--run", "12"), {"run": "12"}),
        (("--run", "Flow/12"), {"flow": "Flow", "run": "12"}),
        (("--task", "Flow/12/train/3"), {"flow": "Flow", "run": "12", "step": "train", "task": "3"}),
        (("--task", "3", "--user", "me"), {"task": "3", "user": "me"}),
        (("--flow", "all", "--step", "train"), {"step": "train"}),
    ],
)
def test_paths_name_all_that_is_above(words: tuple[str, ...], labels: dict[str, str]) -> None:
    """Guards against a run's number that is taken for that of another flow's run."""
    assert wanted(*words) == labels


def test_a_flow_s_commands_are_about_it() -> None:
    """Guards against a kill behind one flow's file that ends another flow's sandboxes."""
    assert wanted("--run", "12", flow="Mine") == {"flow": "Mine", "run": "12"}
    assert wanted("--flow", "Other", flow="Mine") == {"flow": "Other"}
    assert wanted("--flow", "all", flow="Mine") == {}
