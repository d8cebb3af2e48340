"""A model of the unpickler's input, stack and memo; ``pickle_opcodes`` moves it."""

from __future__ import annotations

import _compat_pickle
import re
from collections.abc import Callable
from mmap import mmap
from typing import Final

from ..errors import RelayError
from .pickle_values import Container, Global, Known, Made, Value, Visitor, refuse

_MAX_ITEMS = 12  # longer tuples are never arguments that a rule looks at
_MAX_DEPTH = 3
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_SLOT = re.compile(rb"0|[1-9][0-9]{0,9}")
_STOP = 0x2E
MARK: Final = object()
_UNSET: Final = object()


class Walk:
    """One pass over one pickle. Every method raises RelayError where the unpickler would fail."""

    def __init__(self, data: bytes | mmap, visitor: Visitor) -> None:
        self.data = data
        self.at = 0
        self.frame_end = 0
        self.visitor = visitor
        self.protocol = 0
        self.stack: list[Value] = []  # marks are in it, so an underflow meets one
        self.memo: list[Value] = []
        self.memo_used = 0

    def run(self, operations: dict[int, Callable[[Walk], None]], max_operations: int) -> Value:
        """Follow the opcodes until STOP; returns what is known of the value."""
        data, size = self.data, len(self.data)
        for _ in range(max_operations):
            if self.at >= size:
                raise self.error("no STOP")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                value = self.pop()
                if self.at != size:
                    raise self.error("bytes after STOP")
                return value
            operation = operations.get(code)
            if operation is None:
                raise self.error(f"opcode {code:#04x} is not accepted")
            operation(self)
        raise self.error(f"more than {max_operations} opcodes")

    def error(self, cause: str) -> RelayError:
        """Make the error for this place."""
        return refuse(cause, self.at)

    # -- bytes

    def take(self, size: int) -> bytes:
        """Consume ``size`` bytes."""
        start = self.at
        self.move(start + size)
        return self.data[start : self.at]

    def skip(self, size: int) -> None:
        """Consume ``size`` bytes unread."""
        self.move(self.at + size)

    def move(self, end: int) -> None:
        """Consume the bytes before ``end``, which lie wholly inside or outside of a frame.

        A read across a frame's end fails in pickle.py; the C unpickler, when it reads from a file, drops
        bytes there and goes on with others than stand in the pickle.
        """
        if end > len(self.data):
            raise self.error("it ends early")
        if self.at < self.frame_end < end:
            raise self.error("a value crosses the end of a frame")
        self.at = end

    def frame(self, size: int) -> None:
        """Begin a frame of ``size`` bytes."""
        if self.at < self.frame_end:
            raise self.error("a frame lies in another")
        if size > len(self.data) - self.at:
            raise self.error("it ends early")
        self.frame_end = self.at + size

    def number(self, size: int, signed: bool = False) -> int:
        """Consume a little-endian number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """Consume a line and its newline; returns it without."""
        start = self.at
        newline = self.data.find(b"\n", start)
        if newline < 0:
            raise self.error("a line has no end")
        self.move(newline + 1)
        return self.data[start:newline]

    # -- stack and memo

    def pop(self) -> Value:
        """Take the top value; a mark is no value."""
        if not self.stack or self.stack[-1] is MARK:
            raise self.error("the stack underflows")
        return self.stack.pop()

    def top(self) -> Value:
        """Look at the top value; a mark is no value."""
        if not self.stack or self.stack[-1] is MARK:
            raise self.error("the stack underflows")
        return self.stack[-1]

    def pop_mark(self) -> list[Value]:
        """Take the values above the topmost mark, and the mark."""
        stack = self.stack
        for start in range(len(stack) - 1, -1, -1):
            if stack[start] is MARK:
                items = stack[start + 1 :]
                del stack[start:]
                return items
        raise self.error("there is no MARK")

    def put(self, slot: int) -> None:
        """Remember the top value in a memo slot."""
        if slot > self.at:  # the C unpickler's table is an array: a high slot alone would fill memory
            raise self.error(f"memo slot {slot} is out of all proportion")
        value = self.top()
        if slot >= len(self.memo):
            self.memo.extend([_UNSET] * (slot + 1 - len(self.memo)))
        if self.memo[slot] is _UNSET:
            self.memo_used += 1
        self.memo[slot] = value

    def get(self, slot: int) -> None:
        """Push what a memo slot holds."""
        if slot >= len(self.memo) or self.memo[slot] is _UNSET:
            raise self.error(f"memo slot {slot} is empty")
        self.again(self.memo[slot])

    def again(self, value: Value) -> None:
        """Push a value that is elsewhere too."""
        if isinstance(value, (Known, Container, Made)):
            self.visitor.reused(value)
        self.stack.append(value)

    def slot_line(self) -> int:
        """Consume a memo slot written as text."""
        text = self.line()
        if not _SLOT.fullmatch(text):
            raise self.error("a memo slot is not a plain number")
        return int(text)

    # -- acts

    def pass_on(self, value: Value) -> None:
        """Tell of the globals in one value that is handed over."""
        if isinstance(value, Global):
            self.visitor.passed(value.name)
        elif isinstance(value, Known):
            for name in value.names:
                self.visitor.passed(name)

    def pass_all(self, values: list[Value]) -> None:
        """Tell of the globals in values that are handed over."""
        for value in values:
            if isinstance(value, (Global, Known)):
                self.pass_on(value)

    def tuple_of(self, items: list[Value]) -> Value:
        """Make what is known of a tuple; globals in one too long or deep to keep count as handed over."""
        depth, names = 1, frozenset[str]()
        for item in items:
            if isinstance(item, Global):
                names |= {item.name}
            elif isinstance(item, Known):
                depth = max(depth, item.depth + 1)
                names |= item.names
        if depth <= _MAX_DEPTH and len(items) <= _MAX_ITEMS:
            return Known(tuple(items), depth, names)
        for name in names:
            self.visitor.passed(name)
        return Container("tuple")

    def resolve(self, module: str, name: str) -> None:
        """Push the global that the unpickler would import."""
        if not (_NAME.fullmatch(module) and _NAME.fullmatch(name)):
            raise self.error("a global's name is not plain ASCII")
        if self.protocol < 3:  # as the unpickler does under fix_imports, its default
            if (module, name) in _compat_pickle.NAME_MAPPING:
                module, name = _compat_pickle.NAME_MAPPING[module, name]
            elif module in _compat_pickle.IMPORT_MAPPING:
                module = _compat_pickle.IMPORT_MAPPING[module]
        full = f"{module}:{name}" if "." in name else f"{module}.{name}"
        self.visitor.found(full)
        self.stack.append(Global(full))

    def call(self, callee: Value, args: Value) -> None:
        """Push what the call would return."""
        self.visitor.called(callee, args)
        self.stack.append(Made(callee, args))

    def fill(self, items: list[Value], how: str) -> None:
        """Tell of items added to the top value."""
        self.pass_all(items)
        self.visitor.filled(self.top(), how)
