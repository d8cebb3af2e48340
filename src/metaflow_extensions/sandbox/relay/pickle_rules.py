"""Which globals a vetted pickle may name, and what it may do with each.

A list of names alone is not safe. Run against numpy 1.26 and 2.4, an array whose type's flags, item size
or field offsets come from ``dtype.__setstate__``, or whose list of objects is short, reads or follows
memory of the attacker's choice; and BUILD on a *class* sets attributes of it for the whole process. So
calls, states and fills are judged too:

* only a global of the list is ever called; what a call returned is called only where a rule says so;
* a state is set once, on something a call made, never on a class, and only where honest pickles do it;
* guarded globals are called with the arguments of honest pickles and handed over as a value nowhere else,
  or a container's callback could call them with others.

This stops code, not exhaustion: ``bytearray(10**12)`` or ``Fraction("1e999999999")`` can still use up memory
or time where it is loaded.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from typing import Final

from .pickle_values import Container, Global, Known, Made, Value, refuse

SCHEDULER_GLOBALS: Final = frozenset(
    {
        "__main__.ForeachFrame",  # a tuple; Metaflow plants the class in __main__
        "metaflow.tuple_util.ForeachFrame",
        "metaflow.flowspec.ParallelUBF",  # what @parallel's _foreach_var points at
        # Metaflow's own example of an unbounded foreach, used by its core tests.
        "metaflow.plugins.test_unbounded_foreach_decorator.InternalTestUnboundedForeachInput",
    }
)

_EXCEPTIONS: Final = frozenset(
    f"builtins.{name}"
    for name, thing in vars(builtins).items()
    if isinstance(thing, type) and issubclass(thing, BaseException) and thing.__name__ == name
)
"""Built-in exceptions keep their arguments and set attributes; none acts when made."""

_STATEFUL: Final = _EXCEPTIONS | {
    "uuid.UUID",  # its __setstate__ stores an int
    "metaflow.exception.MetaflowExceptionWrapper",  # its __init__ gives str() of its argument, itself vetted
    # Read back, its descriptor names a place that the reader's own data client opens: content, not code.
    "metaflow.includefile.IncludedFile",
    "metaflow.flowspec.ParallelUBF",
    "metaflow.plugins.test_unbounded_foreach_decorator.InternalTestUnboundedForeachInput",
}

_FILLED: Final = {
    "collections.deque": "append",
    "collections.OrderedDict": "setitem",
    "collections.defaultdict": "setitem",  # its factory is called later: any value class below is harmless
    "collections.Counter": "setitem",
}

_PLAIN: Final = frozenset(
    {
        # Value types. Not getattr, type (makes classes), eval, open, map, iter and the like.
        *(
            f"builtins.{name}"
            for name in (
                "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list",
                "object", "range", "set", "slice", "tuple",
            )
        ),
        "builtins.str",  # str(bytes, name) looks up a codec, but only among Python's own encodings
        "builtins.Ellipsis",
        "builtins.NotImplemented",
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.SafeUUID",
        # Making a path touches no file; 3.13 names another module.
        *(
            f"{module}.{name}"
            for module in ("pathlib", "pathlib._local")
            for name in ("PurePath", "PurePosixPath", "PureWindowsPath", "PosixPath")
        ),
        "zoneinfo.ZoneInfo",  # reads time zone data by a key that zoneinfo checks for traversal
        "__main__.ForeachFrame",
        "metaflow.tuple_util.ForeachFrame",
    }
)  # fmt: skip

# Left out on purpose: copyreg._reconstructor and _codecs.encode (protocol 4 does without), functools.partial,
# operator.* and types.* (they call or make functions), collections.namedtuple (it evaluates source),
# numpy.load, object and structured arrays (see the module's docstring).


def _numpy_array(args: Value) -> bool:
    match _plain(args):
        case (Global(name="numpy.ndarray"), (int(zero),), b"b"):
            return zero == 0
    return False


def _numpy_scalar(args: Value) -> bool:
    match _plain(args):
        case (Made(name="numpy.dtype"), bytes()):
            return True
        case (Made(name="numpy.dtype"), other):
            return not isinstance(other, (Global, tuple, Container, Made))
    return False


_TYPE_CODE: Final = re.compile(r"(?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[mM]8|[SU][1-9]\d{0,8})")


def _numpy_dtype(args: Value) -> bool:
    match _plain(args):
        case (str(code), False, True):  # the last is copy: a state never reaches numpy's own shared types
            return _TYPE_CODE.fullmatch(code) is not None
    return False


def _zone(args: Value) -> bool:
    match _plain(args):
        case (Global(name="zoneinfo.ZoneInfo"), "_unpickle"):
            return True
    return False


_GUARDED_CALLS: Final[dict[str, Callable[[Value], bool]]] = {
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": _numpy_dtype,
    "numpy.ndarray": lambda _args: False,  # called with a buffer it makes views that outlive the buffer
    "builtins.getattr": _zone,  # how zoneinfo pickles: getattr(ZoneInfo, "_unpickle")(key, cached)
}


def _array_state(_made: Made, state: Value) -> bool:
    match _plain(state):
        case (1, tuple(shape), Made(name="numpy.dtype"), bool(), content):
            # Content that is no bytes object is refused by numpy for every type code let through above.
            return all(type(size) is int and size >= 0 for size in shape) and not isinstance(content, Global)
    return False


def _dtype_state(made: Made, state: Value) -> bool:
    """Whether the state restates what the type code says: then it changes nothing but the byte order."""
    match _plain(made.args), _plain(state):
        case (str(code), _, _), (version, str(order), None, None, None, size, alignment, flags, *more):
            if order not in ("<", ">", "|", "=") or version != (4 if code[0] in "mM" else 3):
                return False
            expected = (-1, -1, 0)
            if code[0] in "SU":
                length = int(code[1:])
                expected = (length, 1, 0) if code[0] == "S" else (4 * length, 4, 8)
            if (size, alignment, flags) != expected or any(
                type(n) is not int for n in (size, alignment, flags)
            ):
                return False
            return _is_unit(more) if code[0] in "mM" else not more
    return False


def _is_unit(more: list[Value]) -> bool:
    match more:
        case [(None | Container(kind="dict"), (bytes(), int(number), 1, 1))]:  # numpy divides by the last two
            return number > 0
    return False


_GUARDED_STATES: Final[dict[str, Callable[[Made, Value], bool]]] = {
    "numpy.core.multiarray._reconstruct": _array_state,
    "numpy._core.multiarray._reconstruct": _array_state,
    "numpy.dtype": _dtype_state,
}

DATA_GLOBALS: Final = _PLAIN | _STATEFUL | frozenset(_FILLED) | frozenset(_GUARDED_CALLS)
"""Globals that an artifact may name under the policy "vetted", within the rules of this module."""


class Rules:
    """A visitor of ``pickle_scan.scan`` that raises RelayError at the first act outside the rules.

    ``allowed`` limits the globals; ``trusted`` says which others may be named, called and filled at will.
    """

    def __init__(
        self, allowed: frozenset[str], trusted: Callable[[str], bool] | None = None, *, sharing: bool = True
    ) -> None:
        self._allowed = allowed
        self._trusted = trusted or (lambda _name: False)
        self._sharing = sharing

    def found(self, name: str) -> None:
        """Refuse a name that is neither allowed nor trusted."""
        if name not in self._allowed and not self._trusted(name):
            raise refuse(f"it names {name}")

    def passed(self, name: str) -> None:
        """Refuse to hand over a guarded callable."""
        if name in _GUARDED_CALLS and not self._trusted(name):
            raise refuse(f"it hands over {name} as a value")

    def called(self, callee: Value, args: Value) -> None:
        """Refuse a call of something made, and a guarded call with other arguments than honest ones."""
        name = self._root(callee)
        if name is None:
            raise refuse("it calls something that is no global")
        if self._trusted(name):
            return
        if isinstance(callee, Made):
            if callee.name != "builtins.getattr":  # made with honest arguments only: it is ZoneInfo._unpickle
                raise refuse(f"it calls what {name} returned")
        elif (guard := _GUARDED_CALLS.get(name)) is not None:
            if not guard(args):
                raise refuse(f"it calls {name} with unusual arguments")
            return
        self._pass_all(args)

    def built(self, target: Value, state: Value) -> None:
        """Refuse state on a class, a second state, and state where honest pickles set none."""
        if not isinstance(target, Made):
            raise refuse("it sets state on something that no call made")
        name = self._root(target)
        if name is not None and self._trusted(name):
            return
        guard = _GUARDED_STATES.get(target.name or "")
        if target.built or not (guard(target, state) if guard else target.name in _STATEFUL):
            raise refuse(f"it sets an unusual state on what {name} made")
        if guard is None:
            self._pass_all(state)

    def filled(self, target: Value, how: str) -> None:
        """Refuse to add items to anything but a fresh built-in container or one of ``collections``."""
        if isinstance(target, Container):
            if {"list": "append", "dict": "setitem", "set": "add"}.get(target.kind) == how:
                return
        elif isinstance(target, Made):
            name = self._root(target)
            if name is not None and (self._trusted(name) or _FILLED.get(target.name or "") == how):
                return
        raise refuse(f"it uses {how} on something that has no such use")

    def reused(self, value: Value) -> None:
        """Refuse shared parts where asked: shared tuples take exponential time to hash."""
        if not self._sharing and not (isinstance(value, Known) and not value.items):
            raise refuse("it shares a part between two places")

    def _pass_all(self, value: Value) -> None:
        names = [value.name] if isinstance(value, Global) else value.names if isinstance(value, Known) else ()
        for name in names:
            self.passed(name)

    def _root(self, value: Value) -> str | None:
        while isinstance(value, Made):
            value = value.callee
        return value.name if isinstance(value, Global) else None


def _plain(value: Value) -> Value:
    """Known tuples as tuples, for matching."""
    return tuple(_plain(item) for item in value.items) if isinstance(value, Known) else value
