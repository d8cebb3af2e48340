"""What must not be written anywhere in the package."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

from metaflow_extensions.sandbox import errors

from .sources import called, modules, short, tree

# Files that may unpickle or evaluate, and why: none does.
MAY_EVALUATE: dict[str, str] = {}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
EVALUATORS = {"eval", "exec", "compile", "builtins.eval", "builtins.exec"}
TREE = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
}
# What a backend may raise besides our tree: the caller's own mistakes, named as Python names them.
BUILT_IN_ERRORS = {"OSError", "FileNotFoundError", "PermissionError", "BrokenPipeError", "ValueError"}


def nodes(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of every file."""
    for path in modules(*folders):
        for node in ast.walk(tree(path)):
            yield path, node


def at(path: Path, node: ast.AST) -> str:
    """Where a node is."""
    return f"{short(path)}:{getattr(node, 'lineno', 0)}"


def test_no_error_is_swallowed_unnamed() -> None:
    """A bare except, or Exception passed over, hides the bug that the next person looks for."""

    def broad(handler: ast.ExceptHandler) -> bool:
        named = handler.type
        kinds = named.elts if isinstance(named, ast.Tuple) else [named]
        return any(
            kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
            for kind in kinds
        )

    found = [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.ExceptHandler)
        and broad(node)
        and (node.type is None or all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body))
    ]
    found += [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.Call)
        and called(node).endswith("suppress")
        and any(
            isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") for kind in node.args
        )
    ]
    assert found == []


def test_no_shell() -> None:
    """What goes through a shell is code."""
    found = [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.Call)
        and (
            called(node) in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
            or any(word.arg == "shell" and getattr(word.value, "value", True) for word in node.keywords)
        )
    ]
    assert found == []


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Bytes from a sandbox are hostile: reading them must never run them."""
    found = []
    for path, node in nodes():
        if isinstance(node, ast.Call):
            name = called(node)
            origin, _, function = name.rpartition(".")
            evaluates = name in EVALUATORS
            unpickles = origin in UNPICKLERS and function in ("load", "loads", "open", "Unpickler")
            if evaluates or unpickles or function == "Unpickler":
                found.append((short(path), at(path, node)))
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in UNPICKLERS:
            taken = {alias.name for alias in node.names} & {"load", "loads", "Unpickler", "*"}
            found += [(short(path), at(path, node))] * bool(taken)
        elif isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            found += [(short(path), at(path, node))] * any(base.endswith("Unpickler") for base in bases)
    assert [where for name, where in found if name not in MAY_EVALUATE] == []
    assert set(MAY_EVALUATE) <= {name for name, _ in found}


def test_backends_raise_from_the_tree() -> None:
    """A foreign error is a traceback to the user, and neither retried nor explained."""
    found = []
    for path, node in nodes("backends"):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = raised.attr if isinstance(raised, ast.Attribute) else getattr(raised, "id", "")
            known = isinstance(getattr(builtins, name, None), type) or name in TREE or name[:1].isupper()
            # A lower-case name is a caught or kept error on its way.
            if known and name not in TREE | BUILT_IN_ERRORS:
                found.append(f"{at(path, node)} raises {name}")
    assert found == []


def test_no_finalizers() -> None:
    """A __del__ runs when nobody knows: clean-up is a context manager's, or close()."""
    found = [
        at(path, node)
        for path, node in nodes()
        if isinstance(node, ast.FunctionDef) and node.name == "__del__"
    ]
    assert found == []


def test_nothing_is_printed() -> None:
    """Output of a library belongs to its caller; a print at import breaks every tool that parses output."""
    assert [
        at(path, node) for path, node in nodes() if isinstance(node, ast.Call) and called(node) == "print"
    ] == []
