"""Wheels become an environment as pip would lay it out; what is not for this Python is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.guest import install
from metaflow_extensions.sandbox.guest.install import HEAD, REFUSED, Here, Refused, check

from ..packages.parts import wheel

VERSION = ".".join(map(str, sys.version_info[:2]))
SITE = f"lib/python{VERSION}/site-packages"
HERE = Here((3, 11), "Linux", "x86_64", (2, 31))
PURE = "demo-1.0-py3-none-any.whl"


def ran(*wheels: tuple[str, bytes], python: str = VERSION) -> subprocess.CompletedProcess[bytes]:
    """Run the program as a sandbox does."""
    sent = b"".join(HEAD.pack(len(name), len(content)) + name.encode() + content for name, content in wheels)
    command = [sys.executable, "-I", "-S", "-c", Path(install.__file__).read_text(), python, "/place"]
    return subprocess.run(command, input=sent + HEAD.pack(0, 0), capture_output=True, check=False)


def installed(place: Path, *wheels: tuple[str, bytes]) -> Path:
    """An environment in ``place``."""
    done = ran(*wheels)
    assert done.returncode == 0, done.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        # Newer Pythons warn where no filter is named, and 3.11.2 knows none.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(place)
    return place


def run_in(place: Path, program: str, *arguments: str) -> str:
    return subprocess.run(
        [place / "bin" / program, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_environment_is_one_of_its_own(tmp_path: Path) -> None:
    """Guards what python finds: the wheel's modules and metadata, its bytecode, nothing of the base's."""
    place = installed(tmp_path, (PURE, wheel({"demo/__init__.py": "X = 1"})))
    script = (
        "import demo, importlib.metadata, sys; print(demo.X, importlib.metadata.version('demo'), "
        "sys.prefix != sys.base_prefix, importlib.util.find_spec('pytest') is None, demo.__cached__)"
    )
    cached = place / SITE / "demo" / "__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc"
    before = cached.read_bytes()
    assert run_in(place, "python3", "-c", script) == f"1 1.0 True True {cached}"
    assert cached.read_bytes() == before  # it was taken as it is


def test_commands_run_wherever_it_is(tmp_path: Path) -> None:
    """Guards console scripts and scripts of wheels, in a place that was not known when they were made."""
    entries = "[console_scripts]\ndemo = demo.cli:Main.run\nbare=demo.cli : hello [extra]\n"
    module = "class Main:\n    def run():\n        print('ran')\ndef hello():\n    import sys; sys.exit(0)\n"
    files = {
        "demo/__init__.py": "",
        "demo/cli.py": module,
        "demo-1.0.data/scripts/own": "#!python\nimport demo, sys; print('own', sys.argv[1])\n",
        "demo-1.0.data/scripts/shell": "#!/bin/sh\necho shell\n",
        "demo-1.0.data/data/share/demo.txt": "shared",
        "demo-1.0.data/purelib/more.py": "",
    }
    place = installed(tmp_path / "with space", (PURE, wheel(files, **{"entry_points.txt": entries})))
    moved = place.rename(tmp_path / "moved")
    assert run_in(moved, "demo") == "ran"
    assert run_in(moved, "bare") == ""
    assert run_in(moved, "own", "an argument") == "own an argument"
    assert run_in(moved, "shell") == "shell"
    assert (moved / "share" / "demo.txt").read_text() == "shared"
    assert (moved / SITE / "more.py").exists()
    record = (moved / SITE / "demo-1.0.dist-info" / "RECORD").read_text()
    assert {"demo/cli.py", "../../../bin/demo"} <= {line.partition(",")[0] for line in record.splitlines()}


def test_packages_may_share_files(tmp_path: Path) -> None:
    """Guards old namespace packages, and wheels that bring bytecode."""
    cached = f"shared/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"
    one = wheel({"shared/__init__.py": "", "shared/a.py": "", cached: "old"})
    two = wheel({"shared/__init__.py": "# of the other", "shared/b.py": ""}, "other")
    place = installed(tmp_path, (PURE, one), ("other-1.0-py3-none-any.whl", two))
    assert run_in(place, "python3", "-c", "import shared.a, shared.b; print('both')") == "both"


def test_source_for_another_python_is_left_as_it_is(tmp_path: Path) -> None:
    """Guards templates and the like, which no import needs."""
    place = installed(tmp_path, (PURE, wheel({"demo/__init__.py": "", "demo/template.py": "{{ name }} ="})))
    assert (place / SITE / "demo" / "template.py").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (PURE, b"no zip", "is no wheel"),
        (PURE, wheel({"../out.py": ""}), "leads out"),
        (PURE, wheel({"/out.py": ""}), "leads out"),
        (PURE, wheel({"demo-1.0.data/nowhere/x": ""}), "there is no place"),
        (PURE, wheel({}, **{"entry_points.txt": "[console_scripts]\n../x = a:b\n"}), "names the command"),
        (PURE, wheel({}, **{"entry_points.txt": "[console_scripts]\nx = os;evil:b\n"}), "names the command"),
        ("demo-1.0-cp27-cp27m-win32.whl", wheel({}), "is not for this sandbox"),
    ],
)
def test_doubtful_wheels_are_refused(name: str, content: bytes, told: str) -> None:
    """Guards the message, which comes with an exit code of its own."""
    done = ran((name, content))
    assert (done.returncode, told in done.stderr.decode()) == (REFUSED, True), done.stderr.decode()


def test_links_in_wheels_are_refused() -> None:
    """Guards what is unpacked: files only."""
    target = io.BytesIO(wheel({}))
    with zipfile.ZipFile(target, "a") as archive:
        link = zipfile.ZipInfo("demo/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert b"holds the link" in ran((PURE, target.getvalue())).stderr


def test_another_python_is_refused() -> None:
    """Guards an image whose Python is not the one that packages were resolved for."""
    done = ran(python="3.2")
    assert done.returncode == REFUSED
    assert b"for Python 3.2 and the sandbox has" in done.stderr


def test_what_ends_early_is_refused() -> None:
    """Guards against an environment of some of the packages, when a wheel can't be sent whole."""
    command = [sys.executable, "-I", "-S", "-c", Path(install.__file__).read_text(), VERSION, "/place"]
    done = subprocess.run(command, input=HEAD.pack(0, 0)[:3], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (REFUSED, b"what was sent ended early\n")


def test_many_modules_are_compiled_by_several_processes(tmp_path: Path) -> None:
    """Guards large packages: every module has its bytecode, whichever process made it."""
    modules = {f"demo/m{number}.py": f"X = {number}" for number in range(300)}
    place = installed(tmp_path, (PURE, wheel({"demo/__init__.py": "", **modules})))
    assert len([*(place / SITE / "demo" / "__pycache__").iterdir()]) == 301


GOOD = ["py3-none-any", "py2.py3-none-any", "cp311-cp311-linux_x86_64", "cp38-abi3-manylinux1_x86_64",
        "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp311-none-any",
        "py39-none-any"]  # fmt: skip
BAD = ["cp310-cp310-linux_x86_64", "cp312-cp312-linux_x86_64", "cp312-abi3-linux_x86_64", "py2-none-any",
       "cp311-cp311-manylinux_2_17_aarch64", "cp311-cp311-win_amd64", "cp311-cp311-macosx_11_0_arm64",
       "cp311-cp311-musllinux_1_1_x86_64", "cp311-cp311-manylinux_2_34_x86_64", "pp311-none-any",
       "py312-none-any"]  # fmt: skip


def test_tags_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards wheels for other Pythons, machines and C libraries, which would fail at their import."""
    for tags in GOOD:
        check(f"demo-1.0-{tags}.whl", HERE)
    for tags in BAD:
        with pytest.raises(Refused, match=r"Linux x86_64, glibc 2\.31, Python 3\.11"):
            check(f"demo-1.0-1-{tags}.whl", HERE)
    check("demo-1.0-cp311-cp311-musllinux_1_1_x86_64.whl", HERE._replace(glibc=None))
    check("demo-1.0-cp311-cp311-macosx_11_0_universal2.whl", HERE._replace(system="Darwin", machine="arm64"))
