"""Who may import what; see the design's table of parts."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from .sources import NAME, PACKAGE, imported, is_standard, is_within, module_name, modules, short

WITHOUT_METAFLOW = ("backends", "relay", "guest", "testing")
# What a launcher needs of backends/ before it knows which backend it will load.
OPEN_BACKEND_MODULES = {
    "built_in",
    "interface",
    "spec",
    "options",
    "registry",
    "python_env",
    "local_state",
    "owner",
}
CORE_BACKEND_MODULES = {"built_in", "interface", "spec", "options", "registry"}


def offences(paths: Iterable[Path], *packages: str) -> list[str]:
    """Imports of the packages, as path:line and what."""
    return [
        f"{short(path)}:{line} imports {name}"
        for path in paths
        for name, line in imported(path)
        if any(is_within(name, package) for package in packages)
    ]


def test_no_metaflow_below_the_plugins() -> None:
    """These parts serve backends, and sandboxes in which there is no Metaflow or none yet."""
    paths = modules(*WITHOUT_METAFLOW)
    assert {path.relative_to(PACKAGE).parts[0] for path in paths} == set(WITHOUT_METAFLOW)
    assert (
        offences(
            paths, "metaflow", f"{NAME}.plugins", f"{NAME}.config", "metaflow_extensions.sandbox_plugins"
        )
        == []
    )


def test_relay_is_given_what_it_serves() -> None:
    """A relay that reaches for a supervisor or a backend can't be tested, or moved, without them."""
    assert offences(modules("relay"), f"{NAME}.supervisor", f"{NAME}.backends", f"{NAME}.testing") == []


def test_backends_are_loaded_by_name() -> None:
    """A backend that is imported statically makes its SDK everybody's dependency."""
    backends = f"{NAME}.backends"
    closed = [
        f"{backends}.{path.stem}"
        for path in modules("backends")
        if path.stem not in {"__init__", *OPEN_BACKEND_MODULES}
    ]
    outside = [path for path in modules() if PACKAGE / "backends" not in path.parents]
    assert closed
    assert offences(outside, *closed) == []
    core = [path for path in modules("backends") if path.stem in CORE_BACKEND_MODULES]
    others = [f"{backends}.{path.stem}" for path in modules("backends") if path not in core]
    assert offences(core, *(name for name in others if not name.endswith("__init__"))) == []


def test_guest_is_standard_library_only() -> None:
    """A sandbox has a Python interpreter, and nothing else is promised."""
    # Inside, the folder is started as the top-level package "guest".
    own = (module_name(PACKAGE / "guest" / "__init__.py"), "guest")
    found = [
        f"{short(path)}:{line} imports {name}"
        for path in modules("guest")
        for name, line in imported(path)
        if not is_standard(name) and not any(is_within(name, package) for package in own)
    ]
    assert found == []


def test_guest_is_written_for_the_oldest_python() -> None:
    """An image may bring Python 3.8, whose parser stops at newer syntax."""
    for path in modules("guest"):
        parsed = ast.parse(path.read_text(encoding="utf-8"), filename=short(path), feature_version=(3, 8))
        assert isinstance(parsed, ast.Module)


def test_plugins_start_light() -> None:
    """Metaflow imports this file in every process of every flow, and drops the extension when it fails."""
    path = PACKAGE / "plugins" / "__init__.py"
    names = {name.partition(".")[0] for name, _ in imported(path)} if path.exists() else set()
    # What is part of the interpreter itself costs nothing and is always there.
    assert names <= {"__future__", "os", "typing", *sys.builtin_module_names}


def test_pytest_is_for_the_contract_alone() -> None:
    """Only who tests has pytest: an import elsewhere breaks a plain installation."""
    contract = {PACKAGE / "testing" / "contract.py", *modules("testing/parts")}
    assert offences(set(modules()) - contract, "pytest", "_pytest") == []
    assert offences(set(modules()) - contract, f"{NAME}.testing.contract", f"{NAME}.testing.parts") == []
