"""The walk over pickles, against hand-made attacks and against CPython's own unpicklers."""

from __future__ import annotations

import _compat_pickle
import collections
import contextlib
import datetime
import decimal
import io
import pickle
import random
import struct
import sys
import types
from typing import Any, ClassVar

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.pickle_scan import globals_of


def text(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


OS_SYSTEM = text("os") + text("system") + b"\x93"


def test_names_in_honest_pickles() -> None:
    """Guards against missing or misspelling what ordinary pickles name, in every protocol."""
    value = [collections.OrderedDict(a=1), datetime.date(2020, 1, 1), decimal.Decimal(1), {1, 2}, range(3)]
    wanted = {"collections.OrderedDict", "datetime.date", "decimal.Decimal", "builtins.range"}
    for protocol in range(6):
        assert wanted <= globals_of(pickle.dumps(value, protocol))
    assert globals_of(pickle.dumps(value, 4)) == wanted


def test_plain_values_name_nothing() -> None:
    """Guards against refusing any opcode that plain data of any protocol uses."""
    value = [
        None,
        True,
        1,
        -1,
        300,
        1 << 40,
        1 << 3000,
        1.5,
        "x",
        "é" * 300,
        (),
        (1,),
        (1, 2, 3, 4),
        {"a": []},
    ]
    value += [value[7]] * 300 + [str(i) for i in range(300)]
    for protocol in range(6):
        assert globals_of(pickle.dumps(value, protocol)) == frozenset()
    assert globals_of(pickle.dumps([{1}, frozenset({1}), b"x" * 300, bytearray(b"x")], 5)) == frozenset()


@pytest.mark.parametrize(
    ("pickled", "names"),
    [
        (b"cos\nsystem\n.", {"os.system"}),
        (OS_SYSTEM + b".", {"os.system"}),
        (b"\x80\x04" + text("os") + b"\x94" + text("system") + b"\x940h\x00h\x01\x93.", {"os.system"}),
        (text("os") + b"2" + text("x") + b"0" + b"0" + text("system") + b"\x93.", {"os.system"}),
        (text("x") + b"q\x050" + text("os") + b"q\x050h\x05" + text("system") + b"\x93.", {"os.system"}),
        (text("a") + b"\x94" + text("os") + b"q\x07" + text("b") + b"\x94h\x07h\x02\x93.", {"os.b"}),
        (b"(" + text("os") + text("system") + b"\x93" + b"1" + b"N.", {"os.system"}),
        (text("os") + b"(" + text("x") + b"1" + text("system") + b"\x93.", {"os.system"}),
        (text("os") + b"(0" + text("system") + b"\x93.", {"os.system"}),
        (b"c__builtin__\neval\n.", {"builtins.eval"}),
        (b"\x80\x04c__builtin__\neval\n.", {"__builtin__.eval"}),
        (b"c__builtin__\nreduce\n.", {"functools.reduce"}),
        (b"\x80\x04" + text("os") + text("path.join") + b"\x93.", {"os:path.join"}),
        (b"(cos\nsystem\nN\x85o.", {"os.system"}),
    ],
    ids=[
        "GLOBAL", "STACK_GLOBAL", "memoized", "DUP and POP", "memo slot overwritten", "MEMOIZE counts slots",
        "inside a mark", "POP_MARK between", "POP takes a mark", "old name", "old name, new protocol",
        "old function", "dotted", "OBJ",
    ],
)  # fmt: skip
def test_names_that_hide(pickled: bytes, names: set[str]) -> None:
    """Guards against tricks with the memo, marks and protocols that show another name than is imported."""
    assert globals_of(pickled) == names


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"N",
        b"N.N",
        b"N.\n",
        b".",
        b"(.",
        b"N(\x94.",
        b"(ios\nsystem\n.",
        b"\x82\x01.",
        b"\x83\x01\0.",
        b"\x84\x01\0\0\0.",
        b"P1\n.",
        b"NQ.",
        b"\x97.",
        b"N\x98.",
        b"\xff.",
        b"\x80\x06N.",
        b"\x95" + struct.pack("<Q", 3) + b"N.",
        b"\x95" + struct.pack("<Q", (1 << 64) - 1) + b"N.",
        b"\x95" + struct.pack("<Q", 3) + b"Ncos\nsystem\n.",
        b"\x95" + struct.pack("<Q", 3) + text("os") + text("system") + b"\x93.",
        b"\x95" + struct.pack("<Q", 11) + b"\x95" + struct.pack("<Q", 1) + b"NN.",
        b"\x8b\xff\xff\xff\xffN.",
        b"T\xff\xff\xff\xffN.",
        b"\x8e" + struct.pack("<Q", 1 << 40) + b"N.",
        b"cos\nsystem.",
        b"cos\\x2epath\nsystem\n.",
        b"c os\nsystem\n.",
        b"cos\nsystem\r\n.",
        "cos\n\u017fystem\n.".encode(),
        b"cos\n\xff\n.",
        b"c\nsystem\n.",
        text("os") + b"Vsystem\n\x93.",
        b"S'os'\nS'system'\n\x93.",
        b"U\x02osU\x06system\x93.",
        text("os") + b"N\x93.",
        text("system") + b"\x93.",
        text("os") + b"(" + text("system") + b"\x93.",
        text("os") + text("system") + b"\x86\x93.",
        text("os") + b"c__builtin__\nstr\n)R\x93.",
        b"h\x00.",
        b"g0\n.",
        b"Np 0\n.",
        b"Np0x1\n.",
        b"Np1_0\n.",
        b"Nr\xff\xff\xff\xff.",
        b"(NN\x81e.",
        b"N1.",
        b"(Nd.",
        b"}(Nu.",
        b"\x8c\x01\xff.",
    ],
)
def test_refuses(pickled: bytes) -> None:
    """Guards against pickles whose names cannot be known, or that fail on the way, being let through."""
    with pytest.raises(RelayError, match="pickle refused"):
        globals_of(pickled)


def test_limits_operations() -> None:
    """Guards against unbounded work on a long pickle."""
    globals_of(b"N0" * 500 + b"N.", max_operations=1002)
    with pytest.raises(RelayError, match="1000 opcodes"):
        globals_of(b"N0" * 500 + b"N.", max_operations=1000)


def test_deep_nesting_is_walked_flat() -> None:
    """Guards against RecursionError and crashes from a deeply nested pickle."""
    assert globals_of(b"N" + b"\x85" * 200_000 + b".") == frozenset()
    assert globals_of(b"(" * 200_000 + b"l" * 200_000 + b".") == frozenset()


# -- differential fuzzing


class Anything:
    """Stands for every global: takes any call, state and item."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Anything:
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __call__(self, *_args: Any) -> Anything:
        return self

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _item: Any) -> None: ...

    add = append
    extend = append


class RecordingC(pickle.Unpickler):
    """The C unpickler, which hands over names before it maps those of Python 2."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.met: list[tuple[str, str]] = []

    def find_class(self, module: str, name: str) -> Any:
        self.met.append((module, name))
        return Anything


class RecordingPython(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """The Python unpickler, whose protocol can be read, so that names are recorded as they are imported."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.met: list[tuple[str, str]] = []

    def find_class(self, module: str, name: str) -> Any:
        if getattr(self, "proto", 0) < 3:
            module, name = mapped(module, name)
        self.met.append((module, name))
        return Anything


def mapped(module: str, name: str) -> tuple[str, str]:
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def spelled(module: str, name: str) -> str:
    return f"{module}:{name}" if "." in name else f"{module}.{name}"


def assert_sound(pickled: bytes) -> int:
    """Every global that an unpickler resolves was announced; returns how many, -1 for a refusal."""
    try:
        names = globals_of(pickled)
    except RelayError:
        return -1
    python, c = RecordingPython(pickled), RecordingC(pickled)
    for unpickler in (python, c):
        with contextlib.suppress(Exception):
            unpickler.load()
    for module, name in python.met:
        assert spelled(module, name) in names, (pickled, module, name, names)
    for module, name in c.met:
        assert {spelled(module, name), spelled(*mapped(module, name))} & names, (pickled, module, name, names)
    return len(c.met)


WORDS = ["os", "system", "a.b", "__builtin__", "eval", "builtins", "copy_reg", "reduce", "x" * 20, "é"]
HARMLESS = ["fake", "fake.sub", "name", "name.more", "é", "x" * 20]  # loads() imports them for real
NUMBERS = ["1", "0", "00", "01", "1L", "1.5", "'os'", '"name"', "\\x6fs", "o\\u0073", " 1", "+1", "1_0", "2"]
ONE_BYTE = b"()].}0122N\x88\x89aebdlostuR\x81\x92\x93\x93\x93\x94\x94\x94\x85\x86\x87\x8f\x90\x91"


def random_operation(chance: random.Random, words: list[str]) -> bytes:
    def word() -> bytes:
        raw = chance.choice(words).encode()
        code, size = chance.choice(
            [(b"\x8c", "<B"), (b"\x8c", "<B"), (b"X", "<I"), (b"\x8d", "<Q"), (b"U", "<B"), (b"C", "<B")]
        )
        return code + struct.pack(size, len(raw)) + raw

    kind = chance.randrange(14)
    if kind < 4:
        return bytes([chance.choice(ONE_BYTE)])
    if kind < 7:
        return word()
    if kind < 9:
        between = bytes([chance.choice(ONE_BYTE)]) if chance.randrange(3) == 0 else b""
        return word() + between + word() + between + b"\x93"
    if kind == 9:
        return chance.choice([b"q", b"h", b"h"]) + bytes([chance.randrange(6)])
    if kind == 10:
        code = chance.choice(b"VSILFpg")
        return bytes([code]) + chance.choice(words + NUMBERS).encode() + b"\n"
    if kind == 11:
        return f"c{chance.choice(words)}\n{chance.choice(words)}\n".encode()
    if kind == 12:
        body = b"".join(random_operation(chance, words) for _ in range(3))
        return b"\x95" + struct.pack("<Q", max(0, len(body) + chance.choice([0, 0, 0, -1, 1, -5]))) + body
    return chance.choice(
        [b"\x80" + bytes([chance.randrange(6)]), b"K\x01", b"J\x01\0\0\0", b"r\x02\0\0\0", b"j\x02\0\0\0",
         b"\x8a\x01\x01", b"G" + bytes(8)]
    )  # fmt: skip


def random_pickle(chance: random.Random, words: list[str]) -> bytes:
    body = b"".join(random_operation(chance, words) for _ in range(chance.randrange(2, 12)))
    return b"N(N]}" + body + b"."  # something to take, so that fewer underflow


def test_generated_pickles_agree_with_unpicklers() -> None:
    """Guards against any sequence of opcodes whose globals the walk sees otherwise than an unpickler."""
    chance = random.Random(20)
    named = 0
    for _ in range(30_000):
        named += assert_sound(random_pickle(chance, WORDS)) > 0
    assert named > 1000


class FakeModule(types.ModuleType):
    """Has every attribute, and records which were asked for."""

    met: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        self.met.append(f"{self.__name__}.{name}")
        return Anything


def test_generated_pickles_agree_with_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a difference between reading a file, as above, and ``pickle.loads``, as in Metaflow."""
    for name in ("fake", "fake.sub", "x" * 20):
        monkeypatch.setitem(sys.modules, name, FakeModule(name))
    chance = random.Random(22)
    named = 0
    for _ in range(30_000):
        pickled = random_pickle(chance, HARMLESS)
        try:
            names = {name.replace(":", ".") for name in globals_of(pickled)}
        except RelayError:
            continue
        FakeModule.met.clear()
        with contextlib.suppress(Exception):
            pickle.loads(pickled)
        imported = [name for name in FakeModule.met if "__" not in name]
        for name in imported:  # of a dotted name only its first part is asked of the module
            assert any(name == known or known.startswith(name + ".") for known in names), (
                pickled,
                name,
                names,
            )
        named += bool(imported)
    assert named > 600


def test_mutated_pickles_agree_with_unpicklers() -> None:
    """Guards against desynchronisation when honest pickles are cut, spliced and edited."""
    chance = random.Random(21)
    value = [
        collections.OrderedDict(a=1), datetime.datetime(2020, 1, 1), {"os": "system", "é": b"x"},
        (1, 2.5, None), collections.Counter("abc"), {1, 2}, ValueError("x"), decimal.Decimal(1), range(3),
    ]  # fmt: skip
    seeds = [pickle.dumps(value[i:], protocol) for protocol in range(6) for i in (0, 3, 6)]
    seeds += [b"\x80\x04" + OS_SYSTEM + text("x") + b"\x85R."]
    named = 0
    for _ in range(15_000):
        body = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(body))
            edit = chance.randrange(4)
            if edit == 0:
                body[at] = chance.randrange(256)
            elif edit == 1:
                body[at:at] = random_operation(chance, WORDS)
            elif edit == 2:
                del body[at : at + chance.randrange(1, 6)]
            else:
                other = chance.choice(seeds)
                body[at : at + 3] = other[at : at + 12]
            if not body:
                body = bytearray(b".")
        named += assert_sound(bytes(body)) > 0
    assert named > 500
