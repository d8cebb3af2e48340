"""What each opcode does to a ``Walk``: one function each, named as in pickle.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .pickle_values import UNKNOWN, Container, Known, Made, Value
from .pickle_walk import MARK, Walk

_MAX_TEXT = 512  # longer strings are never a module's or a class's name
Operation = Callable[[Walk], None]


def _proto(walk: Walk) -> None:
    walk.protocol = walk.number(1)
    if walk.protocol > 5:
        raise walk.error(f"protocol {walk.protocol} is not known")


def _frame(walk: Walk) -> None:
    walk.frame(walk.number(8))


def _pop(walk: Walk) -> None:
    if not walk.stack:
        raise walk.error("the stack underflows")
    walk.stack.pop()  # a MARK on top goes as well, as in both unpicklers


def _pop_mark(walk: Walk) -> None:
    walk.pop_mark()


def _put_text(walk: Walk) -> None:
    walk.put(walk.slot_line())


def _global(walk: Walk) -> None:
    module, name = walk.line(), walk.line()
    walk.resolve(module.decode("latin-1"), name.decode("latin-1"))


def _stack_global(walk: Walk) -> None:
    name, module = walk.pop(), walk.pop()
    if type(name) is not str or type(module) is not str:
        raise walk.error("a global's name is computed")
    walk.resolve(module, name)


def _text(size_bytes: int) -> Operation:
    def operation(walk: Walk) -> None:
        size = walk.number(size_bytes)
        if size > _MAX_TEXT:
            walk.skip(size)
            walk.stack.append(UNKNOWN)
            return
        try:
            walk.stack.append(str(walk.take(size), "utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise walk.error("a string is not UTF-8") from None

    return operation


def _bytes(size_bytes: int) -> Operation:
    def operation(walk: Walk) -> None:
        size = walk.number(size_bytes)
        if size > _MAX_TEXT:
            walk.skip(size)
            walk.stack.append(UNKNOWN)
        else:
            walk.stack.append(walk.take(size))

    return operation


def _skipped(size_bytes: int, signed: bool = False) -> Operation:
    def operation(walk: Walk) -> None:
        size = walk.number(size_bytes, signed)
        if size < 0:
            raise walk.error("a size is negative")
        walk.skip(size)
        walk.stack.append(UNKNOWN)

    return operation


def _line_value(walk: Walk) -> None:
    walk.line()
    walk.stack.append(UNKNOWN)


def _integer(size: int, signed: bool = False) -> Operation:
    return lambda walk: walk.stack.append(walk.number(size, signed))


def _float(walk: Walk) -> None:
    walk.skip(8)
    walk.stack.append(UNKNOWN)


def _constant(value: Value) -> Operation:
    return lambda walk: walk.stack.append(value)


def _empty(kind: str) -> Operation:
    return lambda walk: walk.stack.append(Container(kind))


def _short_tuple(size: int) -> Operation:
    def operation(walk: Walk) -> None:
        items = [walk.pop() for _ in range(size)]
        walk.stack.append(walk.tuple_of(items[::-1]))

    return operation


def _tuple(walk: Walk) -> None:
    items = walk.pop_mark()
    walk.stack.append(walk.tuple_of(items))


def _collect(kind: str, even: bool = False) -> Operation:
    def operation(walk: Walk) -> None:
        items = walk.pop_mark()
        if even and len(items) % 2:
            raise walk.error("a key has no value")
        walk.pass_all(items)
        walk.stack.append(Container(kind))

    return operation


def _fill(how: str, count: int | None, even: bool = False) -> Operation:
    def operation(walk: Walk) -> None:
        items = walk.pop_mark() if count is None else [walk.pop() for _ in range(count)]
        if even and len(items) % 2:
            raise walk.error("a key has no value")
        walk.fill(items, how)

    return operation


def _reduce(walk: Walk) -> None:
    args, callee = walk.pop(), walk.pop()
    walk.call(callee, args)


def _newobj_ex(walk: Walk) -> None:
    kwargs, args, callee = walk.pop(), walk.pop(), walk.pop()
    walk.pass_on(kwargs)
    walk.pass_on(args)
    walk.call(callee, UNKNOWN)


def _obj(walk: Walk) -> None:
    items = walk.pop_mark()
    if not items:
        raise walk.error("the stack underflows")
    walk.pass_all(items[1:])
    walk.call(items[0], UNKNOWN)


def _build(walk: Walk) -> None:
    state, target = walk.pop(), walk.top()
    walk.visitor.built(target, state)
    if isinstance(target, Made):
        target.built = True


OPERATIONS: Final[dict[int, Operation]] = {
    0x80: _proto,
    0x95: _frame,
    ord("("): lambda walk: walk.stack.append(MARK),
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): lambda walk: walk.again(walk.top()),
    ord("p"): _put_text,
    ord("q"): lambda walk: walk.put(walk.number(1)),
    ord("r"): lambda walk: walk.put(walk.number(4)),
    0x94: lambda walk: walk.put(walk.memo_used),
    ord("g"): lambda walk: walk.get(walk.slot_line()),
    ord("h"): lambda walk: walk.get(walk.number(1)),
    ord("j"): lambda walk: walk.get(walk.number(4)),
    ord("c"): _global,
    0x93: _stack_global,
    ord("X"): _text(4),
    0x8C: _text(1),
    0x8D: _text(8),
    ord("B"): _bytes(4),
    ord("C"): _bytes(1),
    0x8E: _bytes(8),
    0x96: _skipped(8),
    # Python 2's strings and the text opcodes are decoded by settings of the reader: their value is not used.
    ord("T"): _skipped(4, signed=True),
    ord("U"): _skipped(1),
    ord("S"): _line_value,
    ord("V"): _line_value,
    ord("I"): _line_value,
    ord("L"): _line_value,
    ord("F"): _line_value,
    ord("G"): _float,
    ord("J"): _integer(4, signed=True),
    ord("K"): _integer(1),
    ord("M"): _integer(2),
    0x8A: _skipped(1),
    0x8B: _skipped(4, signed=True),
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord(")"): _constant(Known((), 1, frozenset())),
    0x85: _short_tuple(1),
    0x86: _short_tuple(2),
    0x87: _short_tuple(3),
    ord("t"): _tuple,
    ord("]"): _empty("list"),
    ord("}"): _empty("dict"),
    0x8F: _empty("set"),
    ord("l"): _collect("list"),
    ord("d"): _collect("dict", even=True),
    0x91: _collect("frozenset"),
    ord("a"): _fill("append", 1),
    ord("e"): _fill("append", None),
    ord("s"): _fill("setitem", 2),
    ord("u"): _fill("setitem", None, even=True),
    0x90: _fill("add", None),
    ord("R"): _reduce,
    0x81: _reduce,
    0x92: _newobj_ex,
    ord("o"): _obj,
    ord("b"): _build,
}
"""Opcodes that are followed. Left out, so refused: INST, EXT1/2/4, PERSID, BINPERSID, NEXT_BUFFER,
READONLY_BUFFER, and every byte that is no opcode."""
