"""What Metaflow knows by name about decorators that run a step elsewhere, and what ours says of itself."""

from __future__ import annotations

import ast
import inspect
import platform
from types import ModuleType, SimpleNamespace

import pytest
from metaflow.plugins.pypi import conda_decorator, conda_environment

from metaflow_extensions.sandbox.plugins.conda_steps import REMOTE, keep_entrypoint, target_platform
from metaflow_extensions.sandbox.plugins.sandbox_decorator import SandboxDecorator


def lists_of_names(module: ModuleType) -> list[list[str]]:
    """Every literal list in a module's source that names a decorator of Metaflow's."""
    found = []
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.List) and all(isinstance(each, ast.Constant) for each in node.elts):
            values = ast.literal_eval(node)
            if "batch" in values:
                found.append(values)
    return found


@pytest.mark.parametrize("module", [conda_decorator, conda_environment])
def test_metaflows_lists_are_as_we_know_them(module: ModuleType) -> None:
    """Guards against a Metaflow that changes its lists: look there again, whether ours still gets by."""
    assert lists_of_names(module) == [list(REMOTE)]


def test_metaflow_asks_for_our_platform() -> None:
    """Guards the attributes by which Metaflow resolves for the sandbox's platform."""
    source = inspect.getsource(conda_environment)
    assert '"supports_conda_environment"' in source
    assert '"target_platform"' in source
    assert SandboxDecorator.supports_conda_environment


def test_platform_is_linux_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a Mac, whose sandboxes run Linux except for MetalBox's."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert target_platform(None, "boxlite") == "linux-aarch64"
    assert target_platform(None, "metalbox") == "osx-arm64"
    assert target_platform("linux-64", "boxlite") == "linux-64"


def test_the_launchers_interpreter_is_left_out() -> None:
    """Guards the step's command: Metaflow's own hook for the attribute is in its source as we replace it."""
    source = inspect.getsource(conda_decorator.CondaStepDecorator.runtime_step_cli)
    assert "if self.interpreter:" in source
    decorator = SimpleNamespace(name="conda")
    keep_entrypoint([SimpleNamespace(name="other"), decorator])
    decorator.runtime_task_created("a", task_id="1")
    assert decorator.interpreter is None
