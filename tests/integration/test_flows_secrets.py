"""Secrets in a sandbox: those that the step declares, fetched by the launcher, and no others."""

from __future__ import annotations

import pytest

from .both_ways import BothWays, run_both_ways

REFUSED = "the step's @secrets does not name it"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """SecretsFlow, both ways."""
    return run_both_ways("secrets_flow.py", "SecretsFlow", tmp_path_factory.mktemp("secrets"))


def test_declared_secrets_are_given(secrets: BothWays) -> None:
    """Guards @secrets with several sources, as variables and through Metaflow's own function."""
    for run in (secrets.plain, secrets.sandboxed):
        assert run.value("start", "variables") == "('first', 'second')"
        assert run.value("start", "declared") == "{'TWO': 'second'}"
    assert secrets.sandboxed.value("end", "left_over") == "False"


@pytest.mark.parametrize(
    ("step", "artifact"), [("start", "renamed"), ("start", "changed"), ("end", "undeclared")]
)
def test_other_secrets_are_refused(secrets: BothWays, step: str, artifact: str) -> None:
    """Guards against a step that asks, with the launcher's credentials, for what it does not declare."""
    assert REFUSED in secrets.sandboxed.value(step, artifact)
    assert REFUSED not in secrets.plain.value(step, artifact)


def test_refusals_are_on_record(secrets: BothWays) -> None:
    """Guards the log and the metadata, where the user sees what a step has tried."""
    start, end = (secrets.sandboxed.task(step) for step in ("start", "end"))
    assert start["metadata"]["sandbox-refusals"] == "2"
    assert end["metadata"]["sandbox-refusals"] == "1"
    refusals = [
        line for line in end["sandbox_lines"] if line.startswith("[sandbox] refused: the secret 'one'")
    ]
    assert len(refusals) == 1
