"""Which directories a Python environment shows: all that it needs, nothing that is broad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metaflow_extensions.sandbox.backends.interface import PythonEnvironment
from metaflow_extensions.sandbox.backends.python_env import Interpreter, discover, links
from metaflow_extensions.sandbox.errors import UnsupportedOption


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with an interpreter below it."""
    home = tmp_path / "home" / "user"
    _file(home / ".pyenv/versions/3.11/bin/python3.11", executable=True)
    _file(home / ".pyenv/versions/3.11/lib/python3.11/os.py")
    (home / ".ssh").mkdir()
    return home


def _file(path: Path, text: str = "", *, executable: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755 if executable else 0o644)
    return path


def _venv(place: Path, home: Path) -> Interpreter:
    """A virtual environment of the home's interpreter."""
    base = home / ".pyenv/versions/3.11"
    site = place / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin/python3").symlink_to(base / "bin/python3.11")
    (place / "bin/python").symlink_to("python3")
    return Interpreter(
        executable=place / "bin/python",
        prefixes=(place, base),
        provided=(base / "lib/python3.11",),
        site_directories=(site,),
    )


def _discover(interpreter: Interpreter, home: Path, *sys_path: str | Path) -> PythonEnvironment:
    return discover(sys_path=[str(entry) for entry in sys_path], interpreter=interpreter, home=home)


def test_virtual_environment_shows_itself_and_its_base(home: Path, tmp_path: Path) -> None:
    """Without the base prefix the interpreter finds no standard library."""
    found = _discover(_venv(tmp_path / "venv", home), home)
    assert found.roots == (home / ".pyenv/versions/3.11", tmp_path / "venv")
    assert (found.executable, found.path) == (tmp_path / "venv/bin/python", ())


def test_environment_inside_the_home_is_shown_alone(home: Path) -> None:
    """Most environments are below the home; the home itself must stay out of sight."""
    found = _discover(_venv(home / "project/.venv", home), home)
    assert found.roots == (home / ".pyenv/versions/3.11", home / "project/.venv")


def test_links_between_versions_stay_links(home: Path, tmp_path: Path) -> None:
    """uv and conda name a version by a linked directory: the interpreter's path must mean the same inside."""
    versions = home / ".pyenv/versions"
    (versions / "current").symlink_to("3.11")
    venv = _venv(tmp_path / "venv", home)
    (tmp_path / "venv/bin/python3").unlink()
    (tmp_path / "venv/bin/python3").symlink_to(versions / "current/bin/python3.11")
    found = _discover(venv, home)
    assert found.roots == (versions / "3.11", versions / "current", tmp_path / "venv")


def test_hop_outside_the_environment_is_shown(home: Path, tmp_path: Path) -> None:
    """A chain of links that misses one hop inside ends nowhere."""
    hop = home / "bin/python"
    hop.parent.mkdir()
    hop.symlink_to("../.pyenv/versions/3.11/bin/python3.11")
    venv = _venv(tmp_path / "venv", home)
    (tmp_path / "venv/bin/python3").unlink()
    (tmp_path / "venv/bin/python3").symlink_to(hop)
    assert hop in _discover(venv, home).roots


def test_path_has_what_no_site_directory_provides(home: Path, tmp_path: Path) -> None:
    """PYTHONPATH entries are lost inside unless they are passed on; others must not be doubled."""
    venv = _venv(tmp_path / "venv", home)
    extra, again = tmp_path / "extra", tmp_path / "again"
    extra.mkdir()
    again.mkdir()
    archive = _file(tmp_path / "code.zip")
    own = [*venv.provided, *venv.site_directories]
    found = _discover(venv, home, "", extra, *own, tmp_path / "absent", archive, again, extra)
    assert found.path == (extra, archive, again)
    assert {extra, archive, again} <= set(found.roots)


def test_current_and_excluded_directories_are_left_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow's directory is not part of the environment: code travels in the code package."""
    for name in ("here", "flows", "kept"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = discover(
        sys_path=["", str(tmp_path / "here"), str(tmp_path / "flows"), str(tmp_path / "kept")],
        exclude=[tmp_path / "flows"],
        interpreter=_venv(tmp_path / "venv", home),
        home=home,
    )
    assert found.path == (tmp_path / "kept",)
    assert not {tmp_path / "here", tmp_path / "flows"} & set(found.roots)


def test_pth_directories_are_shown_but_not_passed_on(home: Path, tmp_path: Path) -> None:
    """An editable installation is a line in a .pth file, which the interpreter inside reads again."""
    venv = _venv(tmp_path / "venv", home)
    source = tmp_path / "project/src"
    source.mkdir(parents=True)
    lines = f"# a comment\nimport os; os.getcwd()\n\n{source}\n/no/such/directory\n"
    _file(venv.site_directories[0] / "__editable__.project.pth", lines)
    found = _discover(venv, home, source)
    assert source in found.roots
    assert found.path == ()


def test_editable_finders_are_read_and_not_imported(home: Path, tmp_path: Path) -> None:
    """setuptools' strict editable installs hide their sources in a finder's mapping."""
    package = _file(tmp_path / "project/pkg/__init__.py").parent
    module = _file(tmp_path / "project/single.py")
    namespace = tmp_path / "project/space"
    namespace.mkdir()
    finder = ModuleType("__editable___project_1_0_finder")
    finder.MAPPING = {"pkg": str(package), "single": str(module.with_suffix(""))}  # type: ignore[attr-defined]
    finder.NAMESPACES = {"space": [str(namespace)]}  # type: ignore[attr-defined]
    venv = _venv(tmp_path / "venv", home)
    python = Interpreter(**{**vars(venv), "modules": {finder.__name__: finder}})
    assert {package, module, namespace} <= set(_discover(python, home).roots)


def test_nested_and_system_directories_collapse(home: Path, tmp_path: Path) -> None:
    """Each root is a mount: what is visible already needs no second one."""
    venv = _venv(tmp_path / "venv", home)
    inner = tmp_path / "venv/lib/vendored"
    inner.mkdir()
    found = _discover(venv, home, inner, "/usr/lib")
    assert inner in found.path
    assert not {inner, Path("/usr/lib")} & set(found.roots)


@pytest.mark.parametrize(
    "entry", ["{home}", "{home}/..", "{home}/../..", "/", "/etc", "/tmp", "/var", "/home"]
)
def test_broad_directories_are_refused(home: Path, tmp_path: Path, entry: str) -> None:
    """PYTHONPATH=$HOME would show every key in it."""
    broad = Path(entry.format(home=home))
    venv = _venv(tmp_path.parent / f"{tmp_path.name}-venv", home)
    with pytest.raises(UnsupportedOption, match=r"an entry of sys\.path.*all of .*PYTHONPATH"):
        _discover(venv, home, broad)


@pytest.mark.parametrize("name", [".ssh", ".config", ".local", ".aws"])
def test_directories_of_credentials_are_refused(home: Path, tmp_path: Path, name: str) -> None:
    """Some directories below a home are as private as the whole."""
    (home / name).mkdir(exist_ok=True)
    with pytest.raises(UnsupportedOption, match=name):
        _discover(_venv(tmp_path / "venv", home), home, home / name)


def test_broad_directory_behind_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    """A harmless name must not lead to the home."""
    (tmp_path / "code").symlink_to(home)
    with pytest.raises(UnsupportedOption, match=f"code.*which is {home}"):
        _discover(_venv(tmp_path / "venv", home), home, tmp_path / "code")


def test_broad_pth_line_is_refused_by_its_name(home: Path, tmp_path: Path) -> None:
    """The message has to say where the entry comes from, or nobody finds it."""
    venv = _venv(tmp_path / "venv", home)
    _file(venv.site_directories[0] / "all.pth", f"{home}\n")
    with pytest.raises(UnsupportedOption, match=r"a directory named in a \.pth file"):
        _discover(venv, home)


def test_loops_of_links_are_refused(tmp_path: Path) -> None:
    """A loop must not hang the launcher."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnsupportedOption, match="loop"):
        links(tmp_path / "a")


def test_missing_interpreter_is_refused(home: Path, tmp_path: Path) -> None:
    """An embedded Python has no executable to start a second one with."""
    with pytest.raises(UnsupportedOption, match="no Python interpreter"):
        discover(tmp_path / "absent", interpreter=_venv(tmp_path / "venv", home), home=home)


@pytest.mark.parametrize("system_site_packages", [False, True])
def test_real_virtual_environment(tmp_path: Path, system_site_packages: bool) -> None:
    """What is found by hand-made layouts must hold for the one that Python makes."""
    place = tmp_path / "venv"
    options = ["--system-site-packages"] if system_site_packages else []
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", *options, str(place)], check=True)
    code = (
        "import json; from metaflow_extensions.sandbox.backends.python_env import discover\n"
        "found = discover()\n"
        "print(json.dumps([str(found.executable), [*map(str, found.roots)], [*map(str, found.path)]]))"
    )
    source = Path(__file__).parents[3] / "src"
    env = {**os.environ, "PYTHONPATH": str(source)}
    said = subprocess.run(
        [place / "bin/python", "-c", code], env=env, check=True, capture_output=True, cwd="/"
    )
    executable, roots, path = json.loads(said.stdout)
    assert executable == str(place / "bin/python")
    assert {str(place), str(source)} <= set(roots)
    base = Path(sys.base_prefix).resolve()
    assert str(base) in roots or any(base == system or system in base.parents for system in (Path("/usr"),))
    assert path == [str(source)]
