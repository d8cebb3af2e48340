"""Which host paths a sandbox must show for the launcher's Python to run inside it, and nothing more.

Symbolic links are shown as links and what they lead to as directories, so that a path means the
same inside as outside: each path is taken apart into the links met on the way and its real end.
Nothing is imported to find out; only what this interpreter has loaded already is read.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from ..errors import UnsupportedOption
from .interface import PythonEnvironment
from .python_scope import SYSTEM_DIRECTORIES, beneath, refuse_broad

_LINKS_AT_MOST = 40  # the kernel's own limit, MAXSYMLINKS


@dataclass(frozen=True)
class Interpreter:
    """What an interpreter says about itself; the default is the running one.

    ``provided`` are the directories that it puts on ``sys.path`` unasked; ``site_directories`` those
    of them whose .pth files it obeys.
    """

    executable: Path
    prefixes: tuple[Path, ...]
    provided: tuple[Path, ...] = ()
    site_directories: tuple[Path, ...] = ()
    libraries: tuple[Path, ...] = ()
    modules: Mapping[str, ModuleType] = field(default_factory=dict)

    @classmethod
    def running(cls) -> Interpreter:
        """The interpreter that this code runs in."""
        prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
        directories = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
        # A virtual environment may or may not have those of its base interpreter.
        sites = [Path(entry) for entry in site.getsitepackages([*prefixes]) if entry in sys.path]
        directory, library = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
        shared = Path(directory, library) if directory and str(library).endswith((".so", ".1.0")) else None
        return cls(
            executable=Path(sys.executable),
            prefixes=tuple(Path(prefix) for prefix in sorted(prefixes)),
            provided=tuple(Path(entry) for entry in directories),
            site_directories=tuple(sites),
            libraries=(shared,) if shared and shared.exists() else (),
            modules=dict(sys.modules),
        )


def discover(
    executable: str | Path | None = None,
    sys_path: Sequence[str] | None = None,
    *,
    exclude: Iterable[str | Path] = (),
    interpreter: Interpreter | None = None,
    home: Path | None = None,
) -> PythonEnvironment:
    """The environment of an interpreter, by default the running one with its ``sys.path``.

    ``executable`` is another name of that interpreter. Entries that are "", the current directory
    or in ``exclude`` (the flow's directory) are left out. Raises UnsupportedOption for an entry
    whose directory is too broad to show to a sandbox.
    """
    python = interpreter or Interpreter.running()
    if executable is not None:
        python = replace(python, executable=_absolute(executable))
    if not python.executable.name or not python.executable.exists():
        raise UnsupportedOption(
            f"there is no Python interpreter at {str(python.executable)!r}: "
            "start the flow with one by its full path"
        )
    left_out = {_absolute(entry) for entry in (".", *exclude)}
    by_site = {_absolute(entry) for directory in python.site_directories for entry in _pth_entries(directory)}
    own = {_absolute(entry) for entry in (*python.provided, *python.site_directories)}
    path = [
        entry
        for entry in dict.fromkeys(
            _absolute(entry) for entry in (sys.path if sys_path is None else sys_path) if entry
        )
        if entry.exists() and entry not in left_out | by_site | own and not _inside_stdlib(entry, python)
    ]
    wanted = {python.executable: "the Python interpreter", **dict.fromkeys(python.libraries, "libpython")}
    wanted.update(dict.fromkeys(python.prefixes, "the prefix of the Python interpreter"))
    wanted.update(dict.fromkeys(sorted(own), "a directory of the Python interpreter"))
    wanted.update(dict.fromkeys(sorted(by_site), "a directory named in a .pth file"))
    wanted.update(dict.fromkeys(_editable(python.modules), "an editable installation"))
    wanted.update(dict.fromkeys(path, "an entry of sys.path"))
    return PythonEnvironment(python.executable, tuple(_roots(wanted, home)), tuple(path))


def links(path: Path) -> tuple[list[Path], Path]:
    """The symbolic links met when following an absolute path, each by its real location, and the real end."""
    met: list[Path] = []
    real, rest = Path("/"), list(path.parts[1:])
    while rest:
        part = rest.pop(0)
        if part == "..":
            real = real.parent
            continue
        step = real / part
        if not step.is_symlink():
            real = step
            continue
        met.append(step)
        if len(met) > _LINKS_AT_MOST:
            raise UnsupportedOption(f"{path} is a loop of symbolic links: mend it or take it off sys.path")
        target = step.readlink()
        if target.is_absolute():
            real = Path("/")
        rest = [*[piece for piece in target.parts if piece != "/"], *rest]
    return met, real


def _roots(wanted: Mapping[Path, str], home: Path | None) -> list[Path]:
    pointers: set[Path] = set()
    ends: set[Path] = set()
    for path, role in wanted.items():
        met, end = links(path)
        pointers.update(met)
        if not end.exists() or any(beneath(end, system) for system in SYSTEM_DIRECTORIES):
            continue
        # The interpreter's own file is inside one of its prefixes, or is shown alone.
        refuse_broad(end, path, role, home)
        ends.add(end)
    shown = [end for end in ends if not any(beneath(end, other) for other in ends - {end})]
    covered = [*shown, *SYSTEM_DIRECTORIES]
    pointed = [link for link in pointers if not any(beneath(link, other) for other in covered)]
    return sorted({*shown, *pointed})


def _absolute(entry: str | Path) -> Path:
    # Not resolved: the interpreter inside sees the same names.
    return Path(os.path.abspath(entry))  # noqa: PTH100 - Path.absolute keeps ".."


def _inside_stdlib(entry: Path, python: Interpreter) -> bool:
    """python311.zip and lib-dynload, which the interpreter adds beside and below its library."""
    return any(entry.parent in (own, own.parent) for own in python.provided) and entry.name.startswith(
        ("lib-dynload", "python3")
    )


def _pth_entries(directory: Path) -> Iterator[Path]:
    """Directories that the .pth files of a site directory name, as the site module reads them."""
    for file in sorted(directory.glob("*.pth")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = line.strip()
            if entry and not entry.startswith(("#", "import ", "import\t")):
                found = directory / entry
                if found.exists():
                    yield found


def _editable(modules: Mapping[str, ModuleType]) -> Iterator[Path]:
    """Packages and modules that setuptools' finders for editable installations point at."""
    for name, module in modules.items():
        if not name.startswith("__editable__"):
            continue
        targets = list(getattr(module, "MAPPING", {}).values())
        for places in getattr(module, "NAMESPACES", {}).values():
            targets.extend(places)
        for target in targets:
            for found in (Path(target), Path(f"{target}.py")):
                if found.is_absolute() and found.exists():
                    yield found
