"""Templates: an image with its cores and its memory, built once, and found again by a name."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from e2b import AsyncTemplate
from e2b.exceptions import BuildException
from e2b.template.main import TemplateBuilder

from ...errors import SandboxError, StartFailed, UnsupportedOption
from ..built_once import BuiltOnce
from ..default_image import DEFAULT_IMAGE
from ..interface import Layer, SandboxSpec
from ..layers import unpacking
from .account import ask, key
from .failures import is_foreign, status_of

# E2B's own defaults and limits.
CORES, MAX_CORES = 2, 32
MEMORY, MIN_MEMORY = 1024, 128  # MiB
BUILD = 3600.0  # seconds
OPTIONS = {
    "template": "the name or id of a template of your own",
    "min_free_disk": "MiB that the template's disk has free at the least, where E2B can grow it",
}
_REFUSED = ("not found", "unknown", "invalid", "unauthorized", "denied", "forbidden")


@dataclass(frozen=True)
class Recipe:
    """What a template is made from; ``memory`` and ``min_free_disk`` in MiB."""

    image: str
    cores: int
    memory: int
    min_free_disk: int | None
    layer: Layer | None = None

    def name(self, secret: str) -> str:
        """The same for whoever has the key; nobody else can publish a template of that name."""
        what = {**asdict(self), "layer": self.layer and self.layer.key}
        words = json.dumps(what, sort_keys=True).encode()
        return "metaflow-sandbox-" + hmac.new(secret.encode(), words, hashlib.sha256).hexdigest()[:20]


def wanted(spec: SandboxSpec) -> str | Recipe:
    """The user's own template, or what one is to be built from. Raises UnsupportedOption."""
    unknown = sorted(set(spec.options) - set(OPTIONS))
    if unknown:
        known = "; ".join(f"{name}: {what}" for name, what in OPTIONS.items())
        raise UnsupportedOption(f"backend_options {unknown} can't be honoured; there are: {known}")
    template, disk = spec.options.get("template"), spec.options.get("min_free_disk")
    if template is not None:
        if not isinstance(template, str) or not template:
            raise UnsupportedOption(f"template={template!r} must be {OPTIONS['template']}")
        if any(value is not None for value in (spec.image, spec.cpu, spec.memory, disk)):
            raise UnsupportedOption(
                f"template={template!r} has its own image, cores, memory and disk: leave out image=, cpu=, "
                "memory= and min_free_disk, or the template"
            )
        return template
    if disk is not None and (not isinstance(disk, int) or disk < 0):
        raise UnsupportedOption(f"min_free_disk={disk!r} must be a whole number of MiB")
    return Recipe(spec.image or DEFAULT_IMAGE, _cores(spec.cpu), _memory(spec.memory), disk, spec.layer)


def _cores(cpu: float | None) -> int:
    cores = CORES if cpu is None else cpu
    if cores != int(cores) or not 1 <= cores <= MAX_CORES or (cores > 1 and cores % 2):
        raise UnsupportedOption(f"cpu={cpu}: E2B has 1 core, or an even number up to {MAX_CORES}")
    return int(cores)


def _memory(memory: int | None) -> int:
    mebibytes = MEMORY if memory is None else memory
    if mebibytes != int(mebibytes) or mebibytes < MIN_MEMORY or mebibytes % 2:
        raise UnsupportedOption(f"memory={memory}: E2B has an even number of MiB, {MIN_MEMORY} or more")
    return int(mebibytes)


class Templates:
    """What this process knows of the account's templates."""

    def __init__(self) -> None:
        self._built = BuiltOnce()

    def ensure(self, recipe: Recipe, tell: Callable[[str], None] | None, *, anew: bool = False) -> str:
        """The name of a template that is there, built by the first of all threads that ask for it.

        ``anew``: it is not, whatever the API says. Raises UnsupportedOption, StartFailed, QuotaExceeded or
        BackendUnavailable.
        """
        name = recipe.name(key())
        self._built.ensure(
            name,
            lambda: ask(f"the template {name}", lambda: AsyncTemplate.exists(name)),
            lambda: build(recipe, name, tell or (lambda _line: None)),
            anew=anew,
        )
        return name


def build(recipe: Recipe, name: str, tell: Callable[[str], None]) -> None:
    """Build it, and tell its log."""
    packages = ", with the step's packages" if recipe.layer else ""
    tell(
        f"E2B builds the template {name} of {recipe.image}, {recipe.cores} cores and {recipe.memory} MiB"
        f"{packages}: once, for all steps that ask for the same"
    )
    begin = time.monotonic()

    async def built() -> None:
        try:
            await AsyncTemplate.build(
                builder(recipe.image, recipe.layer),
                name,
                cpu_count=recipe.cores,
                memory_mb=recipe.memory,
                min_free_disk_mb=recipe.min_free_disk,
                on_build_logs=lambda entry: tell(f"  {entry.message}"),
            )
        except BuildException as error:
            if is_foreign(error):
                raise
            raise _explained(recipe, error) from error

    ask(f"the template of image={recipe.image!r}", built, BUILD)
    tell(f"E2B has built the template {name} in {time.monotonic() - begin:.0f} s")


def builder(image: str, layer: Layer | None) -> TemplateBuilder:
    """What a template is built from."""
    if layer is None:
        return AsyncTemplate().from_image(image)
    made = AsyncTemplate(file_context_path=str(layer.archive.parent)).from_image(image)
    # Compressed already.
    made.copy(layer.archive.name, f"{layer.place}/", user="root", gzip=False)
    return made.run_cmd(shlex.join(unpacking(layer)), user="root")


def _explained(recipe: Recipe, error: BuildException) -> SandboxError:
    """A build that fails: for the user's image, or by itself."""
    status = status_of(error)
    if status in (400, 403, 404) or (not status and any(word in str(error).lower() for word in _REFUSED)):
        return UnsupportedOption(
            f"E2B can't build a template of image={recipe.image!r}: {error} Correct image=, which E2B has to "
            "pull without credentials, or name a template of your own in backend_options"
        )
    return StartFailed(f"E2B can't build a template of image={recipe.image!r}: {error}")
