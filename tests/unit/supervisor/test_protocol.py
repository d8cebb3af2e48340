"""What the scheduler's process tells the supervisor."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Mount, PythonEnvironment, SandboxSpec
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.relay.services import SecretSource
from metaflow_extensions.sandbox.supervisor.protocol import (
    CodeSettings,
    RunSettings,
    TaskSettings,
    decode,
    encode,
)

RUN = RunSettings("Flow", "1", "flow.py", "/tmp/r", 5, ["/a b", "ü"], "local", "/l", "local@/d", ["tag\n"])
TASK = TaskSettings(
    TaskIdentity("Flow", "1", "start", "2", 3), "bubblewrap", SandboxSpec(mounts=[]), {}, [], {}
)
FULL = SandboxSpec(
    labels={"flow": "Flow"},
    image="python:3.12",
    cpu=0.5,
    memory=100,
    disk=200,
    gpu=1,
    processes=7,
    network=("example.com", "*.org:443"),
    mounts=[Mount(Path("/a"), PurePosixPath("/b")), Mount(Path("/c"), PurePosixPath("/d"), read_only=False)],
    python=PythonEnvironment(Path("/python"), (Path("/r"), Path("/s")), (Path("/p"),)),
    lifetime=12.5,
    options={"a": [1, None, {"b": True}]},
)


@pytest.mark.parametrize(
    "settings",
    [
        RUN,
        TASK,
        CodeSettings("/code"),
        CodeSettings("/code", "too large\nby far"),
        TaskSettings(
            TASK.identity,
            "package:Class",
            FULL,
            {"A": "1\n2", "PATH": "x=y", "U": "ü\u2028\ud800"},
            ["1/start/1"],
            {"local@/d": True, "s3@b": False},
            [
                SecretSource("inline", "", {"env_vars": {"A": "1"}}, None),
                SecretSource("aws", "x", {}, "role"),
            ],
            timeout=0.5,
            executable="/usr/bin/python3",
        ),
    ],
)
def test_what_goes_in_comes_out(settings: Any) -> None:
    """Guards against settings that lose a field, a type or a line on their way."""
    line = encode(settings)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == settings


@pytest.mark.parametrize("network", ["none", "host", "public", ("a.example",)])
def test_networks(network: Any) -> None:
    """Guards against a list of hosts that becomes another kind of network."""
    task = TaskSettings(TASK.identity, "x", SandboxSpec(network=network), {}, [], {})
    decoded = decode(encode(task))
    assert isinstance(decoded, TaskSettings)
    assert decoded.spec.network == network
    assert type(decoded.spec.network) is type(network)


def test_an_unknown_kind() -> None:
    """Guards against a line of another version that is half understood."""
    fields = json.loads(encode(TASK))
    for kind in ("other", None):
        with pytest.raises(KeyError):
            decode(json.dumps({**fields, "kind": kind}).encode())
    with pytest.raises(TypeError):
        decode(json.dumps({**json.loads(encode(RUN)), "more": 1}).encode())
