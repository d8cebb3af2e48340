"""What a walk over a pickle knows of the values it meets, and who is told of the pickle's acts."""

from __future__ import annotations

from typing import Any, Final, Protocol

from ..errors import RelayError

Value = Any
"""What is known of one stack entry: a constant (None, bool, int, short str or bytes), Known, Global, Made,
Container or UNKNOWN."""


class _Unknown:
    """A value without parts that nothing needs to know."""


UNKNOWN: Final = _Unknown()


class Global:
    """A name that the unpickler resolves by importing."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Made:
    """What a call returned; ``callee`` is the Global or Made that was called, ``args`` what it was given."""

    __slots__ = ("args", "built", "callee")

    def __init__(self, callee: Value, args: Value) -> None:
        self.callee = callee
        self.args = args
        self.built = False

    @property
    def name(self) -> str | None:
        """The global that was called, or None when the callee was itself made."""
        return self.callee.name if isinstance(self.callee, Global) else None


class Known:
    """A short tuple whose items are known; ``names`` are the globals inside."""

    __slots__ = ("depth", "items", "names")

    def __init__(self, items: tuple[Value, ...], depth: int, names: frozenset[str]) -> None:
        self.items = items
        self.depth = depth
        self.names = names


class Container:
    """A list, dict, set, frozenset or long tuple whose items are not kept."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Visitor(Protocol):
    """What is told of the pickle's acts as they are met; any method may raise RelayError to refuse."""

    def found(self, name: str) -> None:
        """Hear that a global is resolved: ``module.name``, or ``module:outer.inner`` when dotted."""

    def passed(self, name: str) -> None:
        """Hear that a global becomes a value: an item of a container, an argument, a state."""

    def called(self, callee: Value, args: Value) -> None:
        """Hear of ``callee(*args)`` or ``callee.__new__(callee, *args)``; args not Known may be anything."""

    def built(self, target: Value, state: Value) -> None:
        """Hear of ``target.__setstate__(state)``, or of attributes set from ``state``."""

    def filled(self, target: Value, how: str) -> None:
        """Hear that items are added by the method ``how`` of target: append, setitem or add."""

    def reused(self, value: Value) -> None:
        """Hear that a value with parts is taken a second time, from the memo or by DUP."""


def refuse(cause: str, position: int | None = None) -> RelayError:
    """Make the error for a pickle that is not accepted; whoever knows the artifact says what mends it."""
    where = "" if position is None else f" at byte {position}"
    return RelayError(f"pickle refused{where}: {cause}")
