"""Names of backends, and where their classes are.

A name is one of three: built in (see ``built_in``), an entry point of the group
``metaflow_sandbox.backends`` in another package, or a full import path ``package.module:Class``. What a
backend can't honour is checked in ``options``.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, cast

from ..errors import BackendUnavailable, UnknownBackend
from .built_in import BUILT_IN, BuiltIn
from .interface import Backend
from .options import check_options, require_isolation, unsupported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BUILT_IN",
    "CHOICE",
    "GROUP",
    "BuiltIn",
    "check_options",
    "default_name",
    "load",
    "load_again",
    "names",
    "require_isolation",
    "unsupported",
]

GROUP = "metaflow_sandbox.backends"
CHOICE = "METAFLOW_SANDBOX_BACKEND"
# Two threads that import modules which import each other may find one of them half made.
_importing = threading.RLock()
_MEMBERS = ("features", "isolation", "check", "open", "list", "destroy")


def names() -> list[str]:
    """Every name that ``load`` takes besides import paths, sorted."""
    return sorted({*BUILT_IN, *_entry_points()})


def load(name: str) -> Backend:
    """Build the backend of that name.

    Raises UnknownBackend when there is none, and BackendUnavailable when its SDK isn't installed or
    when two packages lay claim to the name.
    """
    claims = _entry_points().get(name, [])
    if name in BUILT_IN:
        if claims:
            raise BackendUnavailable(
                f"{_distribution(claims[0])} registers a sandbox backend {name!r}, which is built in and "
                f"can't be replaced: uninstall it, or name its class as {claims[0].value!r}"
            )
        built_in = BUILT_IN[name]
        return _build(name, built_in.path, _remedy(built_in.extra))
    if len(claims) > 1:
        owners = " and ".join(sorted(_distribution(claim) for claim in claims))
        raise BackendUnavailable(
            f"{owners} both register a sandbox backend {name!r}: uninstall one, or choose by import path: "
            + " or ".join(sorted(repr(claim.value) for claim in claims))
        )
    if claims:
        owner = _distribution(claims[0])
        return _build(name, claims[0].value, f"install what {owner} needs for it")
    if ":" in name:
        return _build(name, name, "install what it needs")
    raise UnknownBackend(_unknown(name))


def load_again(name: str) -> Backend:
    """Build a backend whose name ``load`` took before, in another process of the same run.

    Nobody else laid claim to a built-in name then, and to look again would take longer than the rest.
    """
    if name in BUILT_IN:
        built_in = BUILT_IN[name]
        return _build(name, built_in.path, _remedy(built_in.extra))
    return load(name)


def default_name(platform: str = sys.platform) -> str:
    """Name the backend used when none is chosen, given ``sys.platform``.

    Raises BackendUnavailable where there is no default.
    """
    if platform.startswith("linux"):
        return "bubblewrap"
    raise BackendUnavailable(
        f"no sandbox backend is the default on {platform!r} (installed: {', '.join(names())}): choose one "
        f"with {CHOICE}=<name> in the environment or backend=<name> on the step"
    )


def _entry_points() -> dict[str, list[EntryPoint]]:
    # Imported late, as it takes longer than everything else here.
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        claims = found.setdefault(point.name, [])
        # One distribution can be on sys.path twice, as metadata beside its source and as installed.
        if all(
            (_distribution(point), point.value) != (_distribution(claim), claim.value) for claim in claims
        ):
            claims.append(point)
    return found


def _distribution(point: EntryPoint) -> str:
    return f"the package {point.dist.name!r}" if point.dist else "an unnamed package"


def _remedy(extra: str | None) -> str:
    package = f"metaflow-sandbox[{extra}]" if extra else "metaflow-sandbox"
    return f"pip install '{package}'"


def _build(name: str, path: str, remedy: str) -> Backend:
    module_name, _, attribute = path.partition(":")
    try:
        with _importing:
            module = importlib.import_module(module_name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, module_name):
            raise UnknownBackend(f"sandbox backend {name!r}: there is no module {error.name!r}") from error
        raise BackendUnavailable(f"sandbox backend {name!r} can't be imported ({error}): {remedy}") from error
    except ValueError as error:
        raise UnknownBackend(f"sandbox backend {name!r} is not a path like package.module:Class") from error
    factory = getattr(module, attribute, None) if attribute else None
    if not callable(factory):
        raise UnknownBackend(f"sandbox backend {name!r}: module {module_name!r} has no class {attribute!r}")
    try:
        backend = factory()
    except ImportError as error:
        raise BackendUnavailable(f"sandbox backend {name!r} can't be built ({error}): {remedy}") from error
    missing = [member for member in _MEMBERS if not hasattr(backend, member)]
    if missing:
        raise UnknownBackend(f"{path!r} is not a sandbox backend: it lacks {', '.join(missing)}")
    return cast("Backend", backend)


def _is_part(missing: str | None, module_name: str) -> bool:
    """Whether the module itself or a package around it is missing, rather than something it imports."""
    return missing is not None and (module_name == missing or module_name.startswith(missing + "."))


def _unknown(name: str) -> str:
    import difflib

    known = names()
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "a class of your own is named as package.module:Class"
    return f"no sandbox backend {name!r}; there are: {', '.join(known)}; {hint}"
