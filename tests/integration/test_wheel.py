"""The built wheel in clean virtual environments, beside another extension, on every Python there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import FLOWS, TIMEOUT, flow_environment

REPOSITORY = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
OTHER_EXTENSION = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "other-metaflow-extension"
version = "1"
[tool.setuptools.packages.find]
where = ["src"]
namespaces = true
""",
    "src/metaflow_extensions/other/plugins/__init__.py": """\
STEP_DECORATORS_DESC = [("other", ".other_decorator.OtherDecorator")]
""",
    "src/metaflow_extensions/other/plugins/other_decorator.py": """\
from metaflow.decorators import StepDecorator

class OtherDecorator(StepDecorator):
    name = "other"

    def task_post_step(self, step_name, flow, *args, **kwargs):
        print("the other extension was here")
""",
}


def interpreters() -> Iterator[tuple[str, Path]]:
    """(version, interpreter) of every supported Python on this machine, the running one included."""
    roots = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for version in VERSIONS:
        candidates = [shutil.which(f"python{version}"), *sorted(roots.glob(f"{version}.*/bin/python"))]
        if sys.version.startswith(f"{version}."):
            candidates.insert(0, sys.executable)
        for candidate in filter(None, candidates):
            ask = [str(candidate), "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2], sep='.')"]
            said = subprocess.run(ask, capture_output=True, text=True, check=False)
            if said.stdout.strip() == version:
                yield version, Path(candidate)
                break


FOUND = dict(interpreters())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy so that nothing is left in the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(
        REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(place), str(source)]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    return next(place.glob("*.whl"))


def test_the_wheel_holds_the_extension_alone(wheel: Path) -> None:
    """Metaflow finds extensions through top_level.txt, and metaflow_extensions must stay a namespace."""
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("top_level.txt") for name in names)
    assert "metaflow_extensions/__init__.py" not in names
    assert "metaflow_extensions/sandbox/py.typed" in names
    assert not [
        name for name in names if not name.startswith(("metaflow_extensions/sandbox/", "metaflow_sandbox-"))
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sandboxed_run_beside_another_extension(version: str, wheel: Path, tmp_path: Path) -> None:
    """An extension can vanish silently beside another one: both have to work in one step."""
    if version not in FOUND:
        pytest.skip(f"no Python {version} on this machine")
    other = tmp_path / "other"
    for name, content in OTHER_EXTENSION.items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text(content)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([str(FOUND[version]), "-m", "venv", str(tmp_path / "venv")], check=True, timeout=TIMEOUT)
    install = [str(python), "-m", "pip", "install", "--quiet", str(wheel), str(other)]
    subprocess.run(install, check=True, timeout=TIMEOUT)
    flow = Path(shutil.copy(FLOWS / "beside_another.py", tmp_path))
    done = subprocess.run(
        [str(python), flow.name, "run"],
        cwd=tmp_path,
        env=flow_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "the other extension was here" in done.stdout
    assert f"sandboxed on {version}" in done.stdout
    assert "isolation container" in done.stdout
