"""What a hostile step may not store, and what Metaflow reads by itself."""

from __future__ import annotations

import ast
import collections
import datetime
import decimal
import fractions
import importlib.util
import json
import mmap
import pathlib
import pickle
import struct
import uuid
import zoneinfo
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import RelayError, UnsupportedOption
from metaflow_extensions.sandbox.relay.vetting import (
    DATA_GLOBALS,
    MAX_SCHEDULER_ARTIFACT,
    PICKLE_ENCODINGS,
    SCHEDULER_ARTIFACTS,
    ArtifactPolicy,
    canonical_json,
    check_data_json,
    scheduler_artifacts,
    vet_artifact,
    vet_scheduler_artifact,
)

VETTED = ArtifactPolicy("vetted")
HEAD = b"\x80\x04"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


FRAME = name("__main__", "ForeachFrame")
GETATTR = name("builtins", "getattr")
DTYPE = name("numpy", "dtype")
NDARRAY = name("numpy", "ndarray")
EMPTY_ARRAY = name("numpy._core.multiarray", "_reconstruct") + NDARRAY + b"K\0\x85C\x01b\x87R"


def dtype(code: str, state: bytes) -> bytes:
    return DTYPE + text(code) + b"\x89\x88\x87R(" + state + b"tb"


INT64 = dtype("i8", b"K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0")
ARRAY = EMPTY_ARRAY + b"(K\x01K\x01\x85" + INT64 + b"\x89C\x0812345678tb"


def vet(pickled: bytes, policy: ArtifactPolicy = VETTED) -> None:
    vet_artifact("x", "pickle-v4", HEAD + pickled + b".", policy)


# -- the scheduler's artifacts


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n" + text("true") + b"\x85R",
        GETATTR,
        name("builtins", "list"),
        name("__main__", "HonestFlow"),
        name("__main__", "ForeachFrame.__new__"),
        name("metaflow.tuple_util", "ForeachFrame.__class__"),
    ],
)
def test_scheduler_artifacts_name_nothing_else(pickled: bytes) -> None:
    """Guards against code run on the launcher by an artifact that the scheduler unpickles."""
    with pytest.raises(RelayError, match="'_transition' refused"):
        vet_scheduler_artifact("_transition", "pickle-v4", HEAD + pickled + b".")


def test_scheduler_artifact_of_a_foreach() -> None:
    """Guards against refusing the one class that honest bookkeeping needs."""
    frame = FRAME + b"(" + text("start") + text("xs") + b"K\x02K\x01" + text("b") + b"t\x81"
    vet_scheduler_artifact("_foreach_stack", "pickle-v4", HEAD + b"](" + frame + frame + b"e.")


def test_classes_of_the_launcher_stay_as_they_are() -> None:
    """Guards against BUILD on a class, which sets attributes of it for the whole scheduler."""
    patched = FRAME + b"N}" + text("_replace") + FRAME + b"s\x86b"
    with pytest.raises(RelayError, match="sets state"):
        vet_scheduler_artifact("_transition", "pickle-v4", HEAD + patched + b".")
    with pytest.raises(RelayError, match="sets state"):
        vet(name("collections", "Counter") + b"N}" + text("update") + b"Ns\x86b")


@pytest.mark.parametrize("encoding", ["", "pickle", "arrow-v1", "PICKLE-V4", "pickle-v4\n"])
def test_scheduler_artifacts_are_pickles(encoding: str) -> None:
    """Guards against another extension's deserialiser running on the launcher."""
    with pytest.raises(RelayError, match="encoding"):
        vet_scheduler_artifact("_transition", encoding, pickle.dumps(None))


def test_scheduler_artifacts_are_small() -> None:
    """Guards against filling the scheduler's memory, and against chains that crash or stall its hashing."""
    vet_scheduler_artifact("_transition", "pickle-v4", pickle.dumps("x" * (MAX_SCHEDULER_ARTIFACT - 100)))
    with pytest.raises(RelayError, match="over 1 MiB"):
        vet_scheduler_artifact("_transition", "pickle-v4", pickle.dumps("x" * MAX_SCHEDULER_ARTIFACT))
    with pytest.raises(RelayError, match="opcodes"):
        vet_scheduler_artifact("_foreach_stack", "pickle-v4", b"N" + b"\x85" * 100_000 + b".")
    with pytest.raises(RelayError, match="shares"):
        vet_scheduler_artifact("_foreach_stack", "pickle-v4", b"N\x85" + b"2\x86" * 60 + b".")


def test_target_of_unbounded_foreach_is_vetted_too() -> None:
    """Guards against the artifact that the task itself names to the scheduler escaping the vetting."""
    stored = {"_foreach_var": pickle.dumps("payload", 4)}
    names = {"_foreach_var", "payload", "other", "_task_ok"}
    load = lambda key, _size: stored[key]  # noqa: E731
    assert scheduler_artifacts(names, load) == {"_foreach_var", "_task_ok"}
    names.add("_unbounded_foreach")
    assert scheduler_artifacts(names, load) == {"_foreach_var", "_task_ok", "_unbounded_foreach", "payload"}
    stored["_foreach_var"] = pickle.dumps("absent")
    assert "absent" not in scheduler_artifacts(names, load)
    stored["_foreach_var"] = pickle.dumps(None)
    assert scheduler_artifacts(names, load) == names - {"payload", "other"}


@pytest.mark.parametrize(
    "pickled",
    [
        b"Vpayload\n.",
        b"S'payload'\n.",
        text("pay") + b"0K\x01.",
        pickle.dumps(["payload"]),
        text("x" * 999) + b".",
    ],
)
def test_target_of_unbounded_foreach_must_be_plain(pickled: bytes) -> None:
    """Guards against a name that the scheduler reads otherwise than the vetting."""
    with pytest.raises(RelayError):
        scheduler_artifacts({"_foreach_var", "_unbounded_foreach"}, lambda _name, _size: pickled)


def metaflow_source(module: str) -> ast.Module:
    spec = importlib.util.find_spec(f"metaflow.{module}")
    assert spec is not None and spec.origin is not None
    return ast.parse(Path(spec.origin).read_text())


def artifact_reads(tree: ast.AST) -> set[str]:
    """Names read from task datastores: ds["x"], ds.get("x"), ds.is_none("x"), "x" in ds, prefetch lists."""
    datastores = ("results", "task_ds", "origin", "parent", "ds", "self._ds", "_results_ds")
    met: set[str] = set()

    def note(owner: ast.AST, key: ast.AST) -> None:
        if ast.unparse(owner).endswith(datastores):
            met.add(key.value if isinstance(key, ast.Constant) else f"computed: {ast.unparse(key)}")  # type: ignore[arg-type]

    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            note(node.value, node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in ("get", "is_none", "__getitem__"):
                note(node.func.value, node.args[0])
            elif node.func.attr in ("load_artifacts", "to_dict", "get_artifact_sizes"):
                met.add(f"computed: {ast.unparse(node)}")
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            note(node.comparators[0], node.left)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PREFETCH_DATA_ARTIFACTS":
            met.update(ast.literal_eval(node.value))
    return met


def test_scheduler_reads_nothing_that_is_not_vetted() -> None:
    """Guards against a Metaflow that unpickles another artifact of a task on the launcher."""
    met = artifact_reads(metaflow_source("runtime")) | artifact_reads(metaflow_source("clone_util"))
    for node in ast.walk(metaflow_source("datastore.task_datastore")):
        if isinstance(node, ast.FunctionDef) and node.name == "pathspec_index":
            met |= {
                part.slice.value
                for part in ast.walk(node)
                if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant)
            }  # type: ignore[arg-type]
    assert {"_transition", "_foreach_stack", "_task_ok", "_unbounded_foreach"} <= met, "the search is broken"
    assert met - SCHEDULER_ARTIFACTS == {"computed: ubf_iter_name"}, "add what is new, and vet it"


def test_decorators_read_no_results_in_the_scheduler() -> None:
    """Guards against a scheduler-side hook of Metaflow that unpickles artifacts past the runtime."""
    spec = importlib.util.find_spec("metaflow")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    readers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "_vendor" not in path.parts and ".results" in path.read_text()
    }
    assert readers == {"runtime.py"}


def test_encodings_are_metaflows() -> None:
    """Guards against a new pickle encoding that would be refused, or an old one that is read differently."""
    tree = metaflow_source("plugins.datastores.serializers.pickle_serializer")
    sets = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and "_ENCODINGS" in ast.unparse(node)
    ]
    call = sets[0].value
    assert isinstance(call, ast.Call)
    assert set(ast.literal_eval(call.args[0])) == PICKLE_ENCODINGS


# -- the policy "vetted"


def test_data_passes() -> None:
    """Guards against refusing ordinary values."""
    values: list[Any] = [
        None, True, 1 << 70, 1.5, "x", b"y", (), (1, (2, (3, (4, 5)))), [[]], {"a": {1, 2}}, frozenset([1]),
        bytearray(b"x"), 1j, range(3), slice(1, 2), ..., NotImplemented, int,
        collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]), collections.Counter("aab"),
        collections.deque([1], 3), datetime.datetime.now(datetime.timezone.utc), datetime.date.today(),
        datetime.datetime.now(zoneinfo.ZoneInfo("UTC")), datetime.timedelta(1), datetime.time(1),
        decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.uuid4(), pathlib.PurePosixPath("/a/b"),
        pathlib.Path("/x"), pathlib.PureWindowsPath("x"), ValueError("x"), OSError(2, "x"), KeyError("x"),
    ]  # fmt: skip
    for value in [*values, values]:
        vet_artifact("x", "pickle-v4", pickle.dumps(value, 4), VETTED)


class Plain:
    """A class of the user's own."""


@pytest.mark.parametrize(
    "value", [print, len, Plain(), Plain, type(None), [].append, object.__reduce__, json]
)
def test_code_and_classes_are_refused(value: Any) -> None:
    """Guards against functions, bound methods and unknown classes in a vetted artifact."""
    try:
        pickled = pickle.dumps(value, 4)
    except TypeError:
        pickled = HEAD + name("json", "loads") + b"."
    with pytest.raises(RelayError, match="refused"):
        vet_artifact("x", "pickle-v4", pickled, VETTED)
    vet_artifact("x", "pickle-v4", pickled, ArtifactPolicy("any"))


DANGEROUS = (
    "builtins.eval builtins.exec builtins.open builtins.__import__ builtins.type builtins.map builtins.iter "
    "builtins.compile builtins.setattr builtins.vars builtins.super builtins.property builtins.input "
    "builtins.breakpoint builtins.classmethod builtins.filter os.system subprocess.Popen functools.partial "
    "functools.reduce operator.attrgetter operator.methodcaller types.FunctionType types.CodeType "
    "copyreg._reconstructor copyreg.__newobj__ _codecs.encode codecs.decode codecs.encode pickle.loads "
    "numpy.load numpy.fromfile numpy.memmap numpy.vectorize numpy.frompyfunc collections.namedtuple "
    "weakref.finalize pathlib.Path.read_bytes importlib.import_module runpy.run_path code.interact "
    "metaflow.includefile.IncludeFile ctypes.CDLL marshal.loads"
)


@pytest.mark.parametrize("dangerous", DANGEROUS.split())
def test_callables_that_reach_code_are_not_allowed(dangerous: str) -> None:
    """Guards against widening the list by something that runs or finds code with chosen arguments."""
    assert dangerous not in DATA_GLOBALS
    module, _, attribute = dangerous.rpartition(".")
    with pytest.raises(RelayError):
        vet(name(module, attribute) + b")R")


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (GETATTR + name("collections", "Counter") + text("__init__") + b"\x86R", "unusual arguments"),
        (GETATTR + name("zoneinfo", "ZoneInfo") + text("__init_subclass__") + b"\x86R", "unusual arguments"),
        (GETATTR + name("zoneinfo", "ZoneInfo") + text("_unpickle") + b"N\x87R", "unusual arguments"),
        (b"(" + GETATTR + name("zoneinfo", "ZoneInfo") + text("_unpickle") + b"o", "unusual arguments"),
        (b"](" + GETATTR + b"e", "hands over"),
        (name("collections", "defaultdict") + GETATTR + b"\x85R", "hands over"),
        (name("builtins", "ValueError") + b")R}" + text("__setstate__") + GETATTR + b"sb", "hands over"),
        (name("builtins", "set") + b"(" + GETATTR * 13 + b"t\x85R", "hands over"),
        (name("builtins", "set") + GETATTR + b"\x85\x85\x85\x85\x85R", "hands over"),
        (name("collections", "OrderedDict") + b")" + b"}" + text("a") + GETATTR + b"s\x92", "hands over"),
        (name("collections", "defaultdict") + name("builtins", "list") + b"\x85R)R", "returned"),
        (text("x") + b")R", "no global"),
        (b"])R", "no global"),
        (name("collections", "Counter") + b"N" + b"a", "no such use"),
        (name("collections", "Counter") + b")RNa", "no such use"),
        (b"}Na", "no such use"),
        (b")Na", "no such use"),
        (name("builtins", "list") + b")R}b", "unusual state"),
        (name("builtins", "ValueError") + b")R}b}b", "unusual state"),
        (b"]}b", "sets state"),
    ],
)
def test_acts_are_judged_not_only_names(pickled: bytes, message: str) -> None:
    """Guards against allowed names put to uses that honest pickles never make of them."""
    with pytest.raises(RelayError, match=message):
        vet(pickled)


def test_numpy_arrays_pass() -> None:
    """Guards against refusing arrays as numpy 1 and 2 pickle them."""
    vet(ARRAY)
    vet(ARRAY.replace(b"X\x16\0\0\0numpy._core", b"X\x15\0\0\0numpy.core"))
    vet(dtype("U3", b"K\x03" + text("<") + b"NNNK\x0cK\x04K\x08"))
    unit = b"N(C\x01DK\x01K\x01K\x01t\x86"
    vet(dtype("M8", b"K\x04" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0" + unit))
    vet(name("numpy._core.multiarray", "scalar") + INT64 + b"C\x0812345678\x86R")


@pytest.mark.parametrize(
    "pickled",
    [
        DTYPE + text("O8") + b"\x89\x88\x87R",
        DTYPE + text("V8") + b"\x89\x88\x87R",
        DTYPE + text("i8") + b"\x89\x89\x87R",
        DTYPE + text("i8,O") + b"\x89\x88\x87R",
        DTYPE + text("i8\n") + b"\x89\x88\x87R",
        dtype("i8", b"K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3f"),
        dtype("S1", b"K\x03" + text("|") + b"NNNK\x64K\x01K\0"),
        dtype("i8", b"K\x03" + text("<") + b"N" + text("x") + b"\x85}K\x08K\x08K\0"),
        dtype(
            "M8", b"K\x04" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0N(C\x01DK\x01K\0K\x01t\x86"
        ),
        INT64 + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        ARRAY + b"(K\x01K\x01\x85" + INT64 + b"\x89C\x0812345678tb",
        EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + INT64 + b"\x89C\x0812345678tb",
        EMPTY_ARRAY + b"(K\x01K\x01\x85" + text("O") + b"\x89]tb",
        ARRAY + b"K\0K\x01s",
        NDARRAY + b"K\x01\x85R",
        NDARRAY + b"K\x01\x85\x81",
        b"](" + NDARRAY + b"e",
        name("numpy._core.multiarray", "scalar") + text("O") + b"]\x86R",
        name("numpy._core.multiarray", "_reconstruct") + NDARRAY + b"K\x09\x85" + text("O") + b"\x87R",
    ],
)
def test_numpy_cannot_be_made_to_corrupt_memory(pickled: bytes) -> None:
    """Guards against item sizes, flags, fields and views chosen by the attacker, which numpy trusts."""
    with pytest.raises(RelayError, match="refused"):
        vet(pickled)


def test_vetting_needs_a_pickle_encoding() -> None:
    """Guards against another deserialiser being given unvetted bytes under the policy "vetted"."""
    with pytest.raises(RelayError, match="encoding"):
        vet_artifact("x", "arrow-v1", b"", VETTED)
    vet_artifact("x", "arrow-v1", b"", ArtifactPolicy())


def test_content_in_a_mapped_file(tmp_path: Path) -> None:
    """Guards against a large artifact, which is read from a file, being judged otherwise than a small one."""
    file = tmp_path / "artifact"
    for content, harmless in ((HEAD + b"cos\nsystem\n.", False), (pickle.dumps({"a": [1, "b"]}), True)):
        file.write_bytes(content)
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            nullcontext() if harmless else pytest.raises(RelayError),
        ):
            vet_artifact("x", "pickle-v4", mapped, VETTED)


def test_extra_globals() -> None:
    """Guards against a pattern that trusts more than it says."""
    policy = ArtifactPolicy("vetted", ("pandas.*", "mod.Class", "mod:Outer.Inner"))
    for trusted in (name("pandas.core.frame", "DataFrame"), name("mod", "Class"), name("mod", "Outer.Inner")):
        vet(trusted + b")R}b", policy)
    for other in (
        name("pandasql", "x"),
        name("pandas", "os.system"),
        name("mod", "Class2"),
        name("mod", "Class.method"),
        name("mod.Outer", "Inner"),
        name("xmod", "Class"),
    ):
        with pytest.raises(RelayError):
            vet(other, policy)


@pytest.mark.parametrize(
    "pattern", ["*", "", "pandas", "pandas.", ".*", "a.*.b", "a b.c", "a.b\n", "1.a", "os:x"]
)
def test_patterns_are_checked(pattern: str) -> None:
    """Guards against a mistyped pattern that trusts everything or nothing."""
    with pytest.raises(UnsupportedOption):
        ArtifactPolicy("vetted", (pattern,))


def test_mode_is_checked() -> None:
    """Guards against a mistyped mode that means "any"."""
    with pytest.raises(UnsupportedOption, match="'any' or 'vetted'"):
        ArtifactPolicy("strict")


# -- JSON

SHA = "a" * 40
INFO = {
    "size": 4,
    "type": "<class 'bool'>",
    "encoding": "pickle-v4",
    "serializer_info": {"source": "metaflow"},
}
DOCUMENT: dict[str, Any] = {
    "datastore": "local",
    "version": "1.0",
    "attempt": 0,
    "python_version": "3.11",
    "objects": {"x": SHA},
    "info": {"x": INFO},
}


def test_data_json_is_returned_as_it_will_be_read() -> None:
    """Guards against a check of something else than what Metaflow reads later."""
    assert check_data_json(json.dumps(DOCUMENT).encode()) == DOCUMENT
    assert check_data_json(json.dumps(DOCUMENT, indent=1).encode()) == DOCUMENT
    empty = DOCUMENT | {"objects": {}, "info": {}}
    assert check_data_json(json.dumps(empty).encode()) == empty


@pytest.mark.parametrize(
    "change",
    [
        {"objects": {"x": "A" * 40}},
        {"objects": {"x": SHA + "\n"}},
        {"objects": {"x": SHA[:39]}},
        {"objects": {"x": None}},
        {"objects": {"../x": SHA}, "info": {"../x": INFO}},
        {"objects": {"": SHA}, "info": {"": INFO}},
        {"objects": {"x" * 257: SHA}, "info": {"x" * 257: INFO}},
        {"objects": {"x": SHA, "y": SHA}},
        {"objects": {}},
        {"objects": [], "info": []},
        {"info": {"x": None}},
        {"info": {"x": INFO | {"encoding": None}}},
        {"info": {"x": INFO | {"encoding": ["pickle-v4"]}}},
        {"info": {"x": INFO | {"size": True}}},
        {"info": {"x": INFO | {"more": {}}}},
        {"info": {"x": INFO | {"serializer_info": 1}}},
        {"info": {"x": {"size": 1, "type": "int"}}},
        {"attempt": "0"},
        {"attempt": True},
        {"attempt": -1},
        {"datastore": {}},
        {"version": "1" * 5000},
    ],
)
def test_data_json_is_checked(change: dict[str, Any]) -> None:
    """Guards against documents that Metaflow or the vetting would stumble over or read differently."""
    with pytest.raises(RelayError, match="JSON of the task refused"):
        check_data_json(json.dumps(DOCUMENT | change).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nul",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b'"\\ud800"',
        b'"\xff"',
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"1" * 5000,
        b'"abc',
        b'"abc\\',
        b"[" * 33 + b"]" * 33,
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'"' + b'\\"' * 1_000_000,
        b" " * (17 << 20),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_json_that_readers_see_differently_is_refused(raw: bytes) -> None:
    """Guards against repeated keys, odd constants and encodings, and nesting that ends the parser."""
    with pytest.raises(RelayError, match="JSON of the task refused"):
        canonical_json(raw)


def test_json_is_rewritten() -> None:
    """Guards against bytes that pass unparsed; brackets in strings are no nesting."""
    assert canonical_json(b' {"a" : [1,2.5,null,true] , "b":"\\u0041\xc3\xa9"}\n') == (
        b'{"a": [1, 2.5, null, true], "b": "A\\u00e9"}'
    )
    deep = b'["' + b"[" * 100 + b'\\"' + b"{" * 100 + b'"]'
    assert canonical_json(deep) == deep
    assert canonical_json(b"[" * 32 + b"]" * 32) == b"[" * 32 + b"]" * 32
    with pytest.raises(RelayError, match="over 3 bytes"):
        canonical_json(b"1234", max_bytes=3)
    with pytest.raises(RelayError, match="deeper than 1"):
        canonical_json(b"[[]]", max_depth=1)
