"""The decorator's attributes: what is taken, and what is refused in one sentence."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest

from metaflow_extensions.sandbox.plugins.attributes import ATTRIBUTES, PARSERS, InvalidAttribute, parse

GOOD: list[tuple[str, Any, Any]] = [
    ("backend", "bubblewrap", "bubblewrap"),
    ("backend", " a.b:C ", "a.b:C"),
    ("image", "python:3.12", "python:3.12"),
    ("cpu", 2, 2.0),
    ("cpu", "0.5", 0.5),
    ("cpu", 1e-3, 0.001),
    ("memory", 4096, 4096),
    ("memory", "4096", 4096),
    ("memory", 4096.0, 4096),
    ("disk", "1e3", 1000),
    ("gpu", 0, 0),
    ("gpu", "1", 1),
    ("timeout", "3600", 3600.0),
    ("timeout", 0.5, 0.5),
    ("env", {"A": "1", "_b2": 2, "C": 1.5}, {"A": "1", "_b2": "2", "C": "1.5"}),
    ("env", '{"A": "x, y"}', {"A": "x, y"}),
    ("env", OrderedDict(A=""), {"A": ""}),
    ("env", {}, {}),
    ("mounts", "/a:/b", [{"local": "/a", "remote": "/b", "mode": "ro"}]),
    ("mounts", ["/a:/b:rw"], [{"local": "/a", "remote": "/b", "mode": "rw"}]),
    ("mounts", '[{"local": "/a", "remote": "/b"}]', [{"local": "/a", "remote": "/b", "mode": "ro"}]),
    ("mounts", {"local": "/a", "remote": "/b"}, [{"local": "/a", "remote": "/b", "mode": "ro"}]),
    ("mounts", [], []),
    (
        "packages",
        {"pandas": "2.2.3", "a": "", "b.c": ">=1, <2"},
        {"pandas": "==2.2.3", "a": "", "b.c": ">=1,<2"},
    ),
    ("packages", '{"a[x,y]": "~=1.0", "b": "*"}', {"a[x,y]": "~=1.0", "b": ""}),
    ("packages", {}, {}),
    ("requirements", "needed.txt", "needed.txt"),
    ("python", " 3.12 ", "3.12"),
    ("python", "3.10.4", "3.10.4"),
    ("secrets", {"A": "x.org", "_b": ["*.x.org", "y"]}, {"A": ("x.org",), "_b": ("*.x.org", "y")}),
    ("secrets", '{"A": ["x.org"]}', {"A": ("x.org",)}),
    ("network", "none", "none"),
    ("network", "host", "host"),
    ("network", "public", "public"),
    ("network", ["models.example.org", "*.example.com:443"], ("models.example.org", "*.example.com:443")),
    ("network", ("1.2.3.4",), ("1.2.3.4",)),
    ("network", "models.example.org, example.com", ("models.example.org", "example.com")),
    ("isolation", "vm", "vm"),
    ("executable", "/usr/bin/python3", "/usr/bin/python3"),
    ("datastore_access", "direct", "direct"),
    ("backend_options", {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
    ("backend_options", "{}", {}),
]


@pytest.mark.parametrize(("name", "value", "parsed"), GOOD)
def test_what_is_meant(name: str, value: Any, parsed: Any) -> None:
    """Guards against a value that is refused, or read otherwise, when it comes as text."""
    result = parse(name, value)
    assert result == parsed
    assert type(result) is type(parsed)


NOT_NUMBERS = ["", "x", "4GiB", "2 cores", None, True, False, [], [1], {}, "nan", "inf", "-inf",
               math.nan, math.inf, -1, "-1", "1e999", 10**400, b"x", object()]  # fmt: skip
NOT_TEXT = ["", "  ", "\t", 1, True, [], {}, b"x", "a\0b", object()]
BAD: dict[str, list[Any]] = {
    "backend": NOT_TEXT,
    "image": NOT_TEXT,
    "executable": NOT_TEXT,
    "cpu": [*NOT_NUMBERS, 0],
    "timeout": [*NOT_NUMBERS, 0],
    "memory": [*NOT_NUMBERS, 0, 0.5, "1.5"],
    "disk": [*NOT_NUMBERS, 0, 0.5],
    "gpu": [*NOT_NUMBERS, 0.5],
    "env": ["", "x", "[]", "A=1", '{"A": [1]}', [], ["A"], {1: "x"}, {"A": None}, {"A": True}, {"A": ["x"]},
            {"A": "a\0"}, {"": "x"}, {"A=B": "x"}, {"1A": "x"}, {"A-B": "x"}, {"Ä": "x"}, {"A\n": "x"}, 1],
    "mounts": ["", "/a", ":/b", "/a:", "/a:/b:ro:x", "/a:/b:w", "[", 1, True, [1], [[]], {"local": "/a"},
               {"local": "/a", "remote": "/b", "mode": 1}, {"local": "/a", "remote": "/b", "x": "y"},
               {"local": "/a\0", "remote": "/b"}, {"local": 1, "remote": "/b"}, b"/a:/b"],
    "packages": ["", "x", "[]", {"a b": "1"}, {"-r": "1"}, {"a": "1; x"}, {"a": "1\nb"}, {"a": 1},
                 {"a @ x": ""}, {"": "1"}, {"a": "@ https://x.org"}, {"a\n": "1"}, 1],
    "requirements": NOT_TEXT,
    "python": ["", "3", "312", "2.7", 3.12, 3, "3.x", "3.12\n--x", "latest", None, []],
    "secrets": ["", "x", "[]", {"A": ""}, {"A": []}, {"A": ["*"]}, {"A": "*.*"}, {"A": "x.org:443"},
                {"A": 1}, {"1": "x"}, {"A": None}, {"A": "https://x.org"}, 1],
    "network": ["", "yes", "NONE", "all", "none,host", [], [""], [1],
                ["a b"], ["http://x.org"], ["x/y"], ["-x"], {},
                1, True, "a.b,", "a.b;c.d", ["x.org\n"]],
    "isolation": ["", "VM", "strong", 3, True, None, [], {}],
    "datastore_access": ["", "s3", True, []],
    "backend_options": ["", "x", "[]", "1", [], {1: 2}, 1, True],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant(name: str) -> None:
    """Guards against a traceback, or a guess, where a value makes no sense."""
    for value in BAD[name]:
        if value is None:
            assert parse(name, value) is None
            continue
        with pytest.raises(InvalidAttribute) as raised:
            parse(name, value)
        # It is read as "@sandbox(cpu=…) is a number of cores …".
        assert str(raised.value).startswith(("is ", "names ", "gives ")), value
        assert "\n" not in str(raised.value)


def test_every_attribute_has_a_parser() -> None:
    """Guards against an attribute that is passed on unchecked."""
    assert tuple(PARSERS) == ATTRIBUTES


def test_mappings_are_copied() -> None:
    """Guards against one step's options changing another's."""
    options = {"a": 1}
    parse("backend_options", options)["b"] = 2
    parse("env", options)["b"] = "2"
    assert options == {"a": 1}
