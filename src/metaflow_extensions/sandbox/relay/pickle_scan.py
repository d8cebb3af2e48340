"""Read a pickle without running it: a linear walk over a model of the unpickler's stack and memo.

The walk does what CPython's C unpickler does with positions, marks and memo slots (Modules/_pickle.c,
3.10 to 3.13) and refuses with ``RelayError`` whatever it cannot follow exactly. ``pickletools.genops``
is not used: it unescapes and decodes text opcodes otherwise than the unpickler does, so that a hostile
pickle could show it other names, and it has no stack.
"""

from __future__ import annotations

from mmap import mmap
from typing import Final

from .pickle_opcodes import OPERATIONS
from .pickle_values import Value, Visitor
from .pickle_walk import Walk

MAX_OPERATIONS: Final = 20_000_000


class _Names:
    """The visitor that only collects names."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def found(self, name: str) -> None:
        self.names.add(name)

    def passed(self, name: str) -> None: ...

    def called(self, callee: Value, args: Value) -> None: ...

    def built(self, target: Value, state: Value) -> None: ...

    def filled(self, target: Value, how: str) -> None: ...

    def reused(self, value: Value) -> None: ...


def globals_of(data: bytes, *, max_operations: int = MAX_OPERATIONS) -> frozenset[str]:
    """Every global that unpickling ``data`` may resolve, as the unpickler resolves it.

    A dotted name is spelled ``module:outer.inner``, which no plain ``module.name`` equals. Raises RelayError
    when the names cannot be known for certain: extension codes, persistent ids, out-of-band buffers,
    computed names, malformed or trailing bytes, more than ``max_operations`` opcodes.
    """
    names = _Names()
    scan(data, names, max_operations=max_operations)
    return frozenset(names.names)


def scan(data: bytes | mmap, visitor: Visitor, *, max_operations: int = MAX_OPERATIONS) -> Value:
    """Walk one pickle, tell ``visitor`` of its acts, and return what is known of the value it stands for.

    Raises RelayError as ``globals_of`` does, or as the visitor does.
    """
    return Walk(data, visitor).run(OPERATIONS, max_operations)
