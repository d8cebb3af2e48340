"""What a task may say about itself to the metadata provider, and what it may ask."""

from __future__ import annotations

from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.records import check_entry, check_name, check_question

from .parts import IDENTITY

FACTS = {"ds-type": "local", "ds-root": "/data", "code-package": '{"sha": "1"}'}
TAGS = ["attempt_id:1"]


@pytest.mark.parametrize(
    "entry",
    [
        ("attempt", "1", "attempt", TAGS),
        ("attempt-done", "1", "attempt-done", TAGS),
        ("attempt_ok", "True", "internal_attempt_status", TAGS),
        ("ds-type", "local", "ds-type", TAGS),
        ("ds-root", "/data", "ds-root", TAGS),
        ("code-package", '{"sha": "1"}', "code-package", TAGS),
        ("origin-run-id", None, "origin-run-id", TAGS),
        ("script-name", "päth flow.py\n", "script-name", TAGS),
        ("f4a3a1c2-default", "{}", "card-info", []),
        ("python_version", "3.11.7 (main)", "python_version", ["a tag"]),
        ("größe", "1", "x", TAGS),
    ],
)
def test_honest_entries(entry: Any) -> None:
    """Guards against refusing what Metaflow and decorators of users register."""
    check_entry(entry, IDENTITY, FACTS)


@pytest.mark.parametrize(
    "field",
    [
        "../../x",
        "a/../../x",
        "/etc/x",
        "a/b",
        "..",
        ".",
        ".hidden",
        "",
        "a\\b",
        "a b",
        "a\nb",
        "a*",
        "a?",
        "[a]",
        "-x",
        "a%2fb",
        "a#b",
        "a\u2215b",
        "\u202eb",
        "x" * 201,
        "ü" * 101,
    ],
)
def test_names_that_become_paths(field: str) -> None:
    """Guards against a field that the local provider, or a URL, makes another place of."""
    with pytest.raises(RelayError, match="metadata field"):
        check_entry((field, "x", "x", TAGS), IDENTITY, FACTS)
    with pytest.raises(RelayError, match="artifact"):
        check_name("the artifact", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sandbox-id", "x"),
        ("sandbox-isolation", "vm"),
        ("sandbox-refusals", "0"),
        ("log_location_stdout", '{"ds_type": "local", "location": "/etc/passwd", "attempt": 0}'),
        ("log_location_stderr", "{}"),
        ("origin-task-id", "7"),
        ("attempt-done_9", "0"),
        ("attempt-done.x", "nonsense"),
        ("attempt", "0"),
        ("attempt", "2"),
        ("attempt", "nonsense"),
        ("attempt", None),
        ("attempt", "01"),
        ("attempt-done", "0"),
        ("ds-type", "s3"),
        ("ds-root", "/home"),
        ("ds-root", None),
        ("code-package", '{"sha": "2"}'),
        ("code-package", '{"location": "/tmp/evil.tgz"}'),
    ],
)
def test_what_the_launcher_knows_better(field: str, value: str | None) -> None:
    """Guards against records that lead Metaflow's client to another place, or speak for the launcher."""
    with pytest.raises(RelayError, match=field):
        check_entry((field, value, "x", TAGS), IDENTITY, FACTS)


def test_unknown_facts() -> None:
    """Guards against a location being believed where the launcher knows none."""
    for value in ("{}", None):
        with pytest.raises(RelayError):
            check_entry(("code-package", value, "x", TAGS), IDENTITY, {})


@pytest.mark.parametrize(
    "label", ["attempt_id:0", "attempt_id:12", "attempt_id:", "x" * 256, "a\nb", "a\x1bb"]
)
def test_labels(label: str) -> None:
    """Guards against tags of other attempts, and against labels that break a terminal or a column."""
    for entry in (("x", "1", "x", [label]), ("x", "1", label, TAGS)):
        with pytest.raises(RelayError):
            check_entry(entry, IDENTITY, FACTS)


@pytest.mark.parametrize(
    ("kind", "sub_kind", "path"),
    [
        ("flow", "self", "Flow"),
        ("run", "self", "Flow/12"),
        ("run", "step", "Flow/12"),
        ("run", "task", "Flow/12"),
        ("step", "task", "Flow/12/start"),
        ("task", "self", "Flow/12/start/3"),
        ("task", "artifact", "Flow/12/start/3"),
        ("task", "metadata", "Flow/12/train/7"),
        ("artifact", "self", "Flow/12/train/7/model"),
    ],
)
def test_questions_about_this_run(kind: str, sub_kind: str, path: str) -> None:
    """Guards against refusing what Metaflow's client asks about the task's own run."""
    check_question(kind, sub_kind, {}, path.split("/"), IDENTITY)
    check_question(
        kind, sub_kind, {"any_tags": "a", "tags": "b", "system_tags": "c"}, path.split("/"), IDENTITY
    )


@pytest.mark.parametrize(
    ("kind", "sub_kind", "path"),
    [
        ("root", "flow", ""),
        ("root", "flow", "Flow/12"),
        ("flow", "run", "Flow"),
        ("flow", "run", "Flow/12"),
        ("flow", "self", "Flow/12"),
        ("flow", "self", "Other"),
        ("run", "self", "Flow/11"),
        ("run", "self", "Other/12"),
        ("run", "self", "Flow"),
        ("run", "self", "Flow/12/start"),
        ("step", "self", "Flow/12/../11"),
        ("task", "self", "Flow/12/../11"),
        ("task", "self", "Flow/12/./.."),
        ("task", "metadata", "Flow/12/*/3"),
        ("artifact", "self", "Flow/12/start/3/*"),
        ("artifact", "self", "Flow/12/start/3/x?y"),
        ("task", "root", "Flow/12/start/3"),
        ("task", "flow", "Flow/12/start/3"),
        ("metadata", "self", "Flow/12/start/3"),
        ("nonsense", "self", "Flow/12"),
        ("", "", "Flow/12"),
    ],
)
def test_questions_about_others(kind: str, sub_kind: str, path: str) -> None:
    """Guards against a question about another run or flow, by its names or by way of ``..`` and patterns."""
    with pytest.raises(RelayError):
        check_question(kind, sub_kind, {}, path.split("/"), IDENTITY)


def test_a_slash_within_one_part() -> None:
    """Guards against several components passing as one."""
    for part in ("../11", "start/3", "../../Other/1"):
        with pytest.raises(RelayError):
            check_question("step", "self", {}, ["Flow", "12", part], IDENTITY)


@pytest.mark.parametrize("filters", [{"x": "y"}, {"tags": ["a"]}, {"tags": None}, {"any_tags": {"a": 1}}])
def test_filters(filters: dict[str, Any]) -> None:
    """Guards against filters that the provider trips over."""
    with pytest.raises(RelayError):
        check_question("run", "self", filters, ["Flow", "12"], IDENTITY)
