"""Tests of the tests: each says what it guards against, and can fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .sources import PACKAGE, TESTS, called, short, tree

ASSERTING_CALLS = ("raises", "fail", "warns", "xfail")


def files() -> list[Path]:
    """Every file that holds tests: ours, and the shipped contract."""
    return [*sorted(TESTS.rglob("test_*.py")), *sorted((PACKAGE / "testing" / "parts").glob("*.py"))]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    return [
        node for node in ast.walk(tree(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def written_tests() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef, set[str]]]:
    """Every test function, with the names of the helpers whose call is an assertion."""
    asserting = {
        node.name for path in TESTS.rglob("*.py") for node in functions(path) if asserts(node, set())
    }
    for path in files():
        # Where one test expects a call to refuse, another that makes it expects it to accept.
        helpers = asserting | {node.name for node in functions(path) if asserts(node, set())} | refusing(path)
        for node in functions(path):
            if node.name.startswith("test_"):
                yield path, node, helpers


def refusing(path: Path) -> set[str]:
    """Names of the functions that the file's tests call under ``pytest.raises``."""
    blocks = [
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.With)
        and any(
            isinstance(item.context_expr, ast.Call) and called(item.context_expr) == "pytest.raises"
            for item in node.items
        )
    ]
    calls = (node for block in blocks for line in block.body for node in ast.walk(line))
    return {called(node).rpartition(".")[2] for node in calls if isinstance(node, ast.Call)}


def asserts(function: ast.AST, helpers: set[str]) -> bool:
    """Whether a function asserts, or calls something that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = called(node).rpartition(".")[2]
            if (
                name in ASSERTING_CALLS
                or name.startswith(("assert_", "_assert", "check_call"))
                or name in helpers
            ):
                return True
    return False


def test_every_test_says_what_it_guards_against() -> None:
    """Nobody dares to change a test whose purpose is lost."""
    missing = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path, node, _ in written_tests()
        if not ast.get_docstring(node)
    ]
    assert missing == []


def test_every_docstring_is_one_line() -> None:
    """A guard that needs a paragraph is several guards."""
    long = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path, node, _ in written_tests()
        if "\n" in (ast.get_docstring(node) or "").strip()
    ]
    assert long == []


def test_every_test_can_fail() -> None:
    """A test without an assertion passes whatever the code does."""
    idle = [
        f"{short(path)}:{node.lineno} {node.name}"
        for path, node, helpers in written_tests()
        if not asserts(node, helpers)
    ]
    assert idle == []


def test_no_assertion_is_constant() -> None:
    """`assert True`, or a tuple, holds always."""
    constant = [
        f"{short(path)}:{node.lineno}"
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert) and isinstance(node.test, (ast.Constant, ast.Tuple))
    ]
    assert constant == []


def test_no_two_tests_share_a_name() -> None:
    """The second of two tests of one name in one scope replaces the first without a word."""
    twice = []
    for path in files():
        for scope in ast.walk(tree(path)):
            if isinstance(scope, (ast.Module, ast.ClassDef)):
                names = [
                    node.name for node in scope.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                ]
                twice += [f"{short(path)} {name}" for name in set(names) if names.count(name) > 1]
    assert twice == []
