"""What MetalBox is told: nothing that YAML, bash or Apple's profile could take for something else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.interface import PythonEnvironment, SandboxSpec
from metaflow_extensions.sandbox.backends.metalbox.options import Options, hidden, plain
from metaflow_extensions.sandbox.backends.metalbox.service import Service, configuration
from metaflow_extensions.sandbox.errors import UnsupportedOption


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with keys, an environment and the sandboxes in it."""
    for place in (
        ".ssh",
        "projects/env/lib",
        "projects/other",
        ".sandboxes/sbx-1",
        ".sandboxes/sbx-2",
        "models",
    ):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "notes").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_hidden_is_all_but_what_is_shown_and_the_way_to_it(home: Path) -> None:
    """Guards the walls of a home directory that has the Python environment in it."""
    closed = hidden(home, [home / "projects" / "env", home / ".sandboxes" / "sbx-1"])
    assert {str(path.relative_to(home)) for path in closed} == {
        ".ssh",
        "projects/other",
        ".sandboxes/sbx-2",
        "models",
        "notes",
    }


def test_nothing_is_hidden_below_what_is_shown(home: Path) -> None:
    """Guards an environment whose prefix is around the home directory: denied, no Python would start."""
    assert list(hidden(home, [home])) == list(hidden(home, [home.parent])) == []


def test_entry_of_a_service(home: Path) -> None:
    """Guards the walls, the limits and the form of the command line, which each fail silently."""
    spec = SandboxSpec(
        memory=512,
        python=PythonEnvironment(home / "projects/env/bin/python", (home / "projects" / "env",)),
    )
    options = Options.of({"metal_memory": 100, "cpus": "background", "read_only": [str(home / "models")]})
    entry = Service(home / ".sandboxes" / "sbx-1" / "1", spec, options).entry()
    assert re.fullmatch(
        rf"/\S+/python[\d.]* -I -S {home}/\.sandboxes/sbx-1/1/io/runner\.py", entry["command"]
    )
    assert entry["restart"] == "no"
    assert entry["resources"] == {"cpus": "background", "memory": "512m", "metal_memory": "100m"}
    profile = entry["sandbox"]
    assert (profile["preset"], profile["allow_net"]) == ("python", False)
    assert {str(home / name) for name in (".ssh", "notes", "projects/other", ".sandboxes/sbx-2")} <= set(
        profile["deny_paths"]
    )
    assert not {str(home / name) for name in ("models", "projects", ".sandboxes", ".sandboxes/sbx-1")} & set(
        profile["deny_paths"]
    )
    assert {str(home / "models"), str(home / "projects/env")} <= set(profile["read_only"])


def test_network_is_open_only_for_host(home: Path) -> None:
    """Guards the one word that decides it."""
    entries = {
        network: Service(home / ".sandboxes/sbx-1" / network, SandboxSpec(network=network), Options()).entry()
        for network in ("none", "host")
    }
    assert {network: entry["sandbox"]["allow_net"] for network, entry in entries.items()} == {
        "none": False,
        "host": True,
    }


@pytest.mark.parametrize(
    "text", ["grüße 😀", "a: b # c", "'\"\\", "x\x7fy\x85z\u2028\ufeff", "\x01\n\t", "- !!x &a *b"]
)
def test_configuration_is_yaml_for_any_text(text: str) -> None:
    """Guards JSON as YAML: a surrogate escape or a raw control character makes the whole file unreadable."""
    written = configuration({"name": {"command": text}})
    assert json.loads(written) == {"services": {"name": {"command": text}}}
    assert not re.search(rb"\\u[dD][89a-fA-F]", written)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\ufeff]", written.decode())


@pytest.mark.parametrize("path", ["/a b", "/a;b", "/a$b", "/a'b", "/a*"])
def test_paths_that_bash_would_read_are_refused(path: str) -> None:
    """Guards what follows a separator, which would run outside the sandbox."""
    with pytest.raises(UnsupportedOption):
        plain(Path(path))
