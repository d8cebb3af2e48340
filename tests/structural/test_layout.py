"""Where files are, and how long they may grow."""

from __future__ import annotations

import fnmatch
import re

from .sources import PACKAGE, ROOT, TESTS, imported, is_within, module_name, modules, short

LONGEST = 350
LONGEST_BACKEND = 220
# Metaflow takes folders of these names, anywhere in the tree that it is shown, for extension points.
EXTENSION_POINTS = {"config", "exceptions", "cmd", "alias", "toplevel"}
# Modules whose tests have another name, and what tests them.
TESTED_ELSEWHERE = {
    "errors.py": "classes without behaviour, raised all over the tests",
    "backends/built_in.py": "a table, tests/unit/backends/test_registry.py",
    "backends/interface.py": "the contract, tests/unit/testing/test_contract.py",
    "backends/spec.py": "the contract, tests/unit/testing/test_contract.py",
    "backends/boxlite/*.py": "the contract, tests/integration/test_contract_boxlite.py",
    "backends/daytona/*.py": "the contract, tests/integration/test_contract_daytona.py",
    "backends/docker/*.py": "the contract, tests/integration/test_contract_podman.py",
    "backends/inner_command.py": "the contract, tests/integration/test_contract_daytona.py",
    "backends/inner_files.py": "the contract, tests/integration/test_contract_daytona.py",
    "backends/default_image.py": "tests/unit/supervisor/test_record.py",
    "backends/container_places.py": "the contract, tests/integration/test_contract_nitrobox.py",
    "backends/inner_process.py": "the contract, tests/integration/test_contract_nitrobox.py",
    "backends/loaded_process.py": "the contract, tests/integration/test_contract_boxlite.py",
    "backends/layers.py": "tests/integration/test_daytona_snapshots.py",
    "backends/lifetime.py": "the contract, tests/integration/test_contract_bubblewrap.py",
    "backends/local_sandbox.py": "the contract, tests/integration/test_contract_nitrobox.py",
    "backends/same_python.py": "by way of warden, tests/unit/backends/test_local_processes.py",
    "backends/microsandbox/*.py": "the contract, tests/integration/test_contract_microsandbox.py",
    "backends/pybox/*.py": "the contract, tests/integration/test_contract_pybox.py",
    "backends/mounts.py": "the contract, tests/integration/test_contract_nitrobox.py",
    "backends/nitrobox/*.py": "the contract, tests/integration/test_contract_nitrobox.py",
    "backends/e2b/*.py": "the contract, tests/integration/test_contract_e2b.py",
    "backends/metalbox/*.py": "the contract, tests/integration/test_contract_metalbox.py",
    "backends/bubblewrap/*.py": "the contract, tests/integration/test_contract_bubblewrap.py",
    "backends/cgroup_*.py": "tests/integration/test_cgroups.py",
    "backends/seccomp*.py": "tests/integration/test_bubblewrap_walls.py",
    "backends/warden.py": "tests/unit/backends/test_local_processes.py",
    "backends/local_state.py": "the contract, tests/integration/test_contract_bubblewrap.py",
    "backends/python_scope.py": "by way of python_env",
    "cli.py": "tests/integration/test_commands.py",
    "commands/*.py": "tests/integration/test_commands.py",
    "config/__init__.py": "Metaflow reads it in tests/integration/test_flows.py",
    "guest/*.py": "every flow of tests/integration/test_flows.py",
    "plugins/*.py": "every flow of tests/integration/test_flows.py",
    "relay/lifecycle.py": "tests/unit/relay/test_server.py",
    "relay/pickle_*.py": "tests/unit/relay/test_pickle_scan.py",
    "relay/task_json.py": "by way of vetting, tests/unit/relay/test_vetting.py",
    "service/*.py": "tests/integration/test_service_requests.py and tests/integration/test_service_faults.py",
    "supervisor/*.py": "tests/integration/test_life_and_death.py",
    "testing/parts/*.py": "tests themselves; tests/unit/testing/test_contract.py shows what they catch",
    "testing/script.py": "tests/unit/testing/test_scripted.py",
    "testing/scripted_process.py": "the contract, tests/integration/test_contract_scripted.py",
    "testing/process_tree.py": "the contract, tests/integration/test_contract_scripted.py",
}


def test_metaflow_extensions_is_a_namespace() -> None:
    """With an __init__.py there, one extension hides all others."""
    assert PACKAGE.parent.is_dir()
    assert not (PACKAGE.parent / "__init__.py").exists()


def test_no_folder_is_taken_for_an_extension_point() -> None:
    """Metaflow would import what is in it as something else."""
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir() and path.name in EXTENSION_POINTS]
    assert [short(path) for path in folders if path != PACKAGE / "config"] == []


def test_files_stay_small() -> None:
    """A file that needs more lines has a second reason to change."""
    long = {
        short(path): lines for path in modules() if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert long == {}


def test_backends_stay_smaller() -> None:
    """A backend translates: over this, something wants to move up."""
    lines = {short(path): len(path.read_text().splitlines()) for path in modules("backends")}
    assert {name: count for name, count in lines.items() if count > LONGEST_BACKEND} == {}


def test_every_module_has_tests() -> None:
    """A module that no test file is named after, or imports, is tested by accident or not at all."""
    files = sorted(TESTS.rglob("test_*.py"))
    used = {name for file in files for name, _ in imported(file)}
    missing = []
    for path in modules():
        where = path.relative_to(PACKAGE).as_posix()
        excepted = any(fnmatch.fnmatch(where, pattern) for pattern in TESTED_ELSEWHERE)
        # A package's own file counts once it holds code.
        code = path.name != "__init__.py" or len(path.read_text().splitlines()) > 20
        name = module_name(path)
        stem = name.rpartition(".")[2]
        named = any(stem in (file.stem.removeprefix("test_"), file.stem.split("_", 2)[-1]) for file in files)
        if code and not excepted and not named and not any(is_within(use, name) for use in used):
            missing.append(short(path))
    assert missing == [], "write tests/**/test_<name>.py, or say in TESTED_ELSEWHERE what tests it"


def test_exceptions_of_the_layout_are_real() -> None:
    """A list of exceptions that names files long gone hides the next one."""
    assert [pattern for pattern in TESTED_ELSEWHERE if not list(PACKAGE.glob(pattern))] == []
    promised = [name for reason in TESTED_ELSEWHERE.values() for name in re.findall(r"tests/\S+\.py", reason)]
    assert [name for name in promised if not (ROOT / name).exists()] == []
