"""The extension's part of Metaflow's configuration."""

from __future__ import annotations

from metaflow.metaflow_config import SPIN_ALLOWED_DECORATORS

from metaflow_extensions.sandbox.plugins import STEP_DECORATORS_DESC


def test_spin_keeps_every_sandbox_decorator() -> None:
    """Guards against user code outside its sandbox: spin drops the decorators that it does not know."""
    assert {name for name, _ in STEP_DECORATORS_DESC} <= set(SPIN_ALLOWED_DECORATORS)
