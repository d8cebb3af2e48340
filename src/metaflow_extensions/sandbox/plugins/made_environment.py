"""Which packages a step has of its own: its options', or those of the environment that Metaflow has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import metaflow_config

from ..backends.interface import Feature, SandboxSpec
from ..errors import UnsupportedOption
from ..packages.cache import PackageCache
from .attributes import asks_for_packages

if TYPE_CHECKING:
    from .packages import Prepared


@dataclass(frozen=True)
class MadeEnvironment:
    """Metaflow's environment, the step's function, the platform of its sandbox and the step's decorators."""

    environment: Any
    step: Any
    platform: str
    decorators: Sequence[Any]


def own_packages(
    attributes: Mapping[str, Any],
    spec: SandboxSpec,
    features: frozenset[Feature],
    default_image: str | None,
    flow: Path,
    made: MadeEnvironment,
    cache: PackageCache,
) -> Prepared | None:
    """What the step's packages change, None for a step without any. ``flow`` is the flow's directory.

    Raises PackagesFailed and UnsupportedOption.
    """
    kind = getattr(made.environment, "TYPE", "local")
    if kind == "local" and not asks_for_packages(attributes):
        return None
    # Most steps have none, and what resolves them takes as long to import as all else here.
    from . import conda_steps, packages

    id_ = conda_steps.environment_id(made.environment, made.step)
    if id_ and asks_for_packages(attributes):
        raise UnsupportedOption(
            "packages=, requirements= and python= are for steps without @conda and @pypi: leave out one of "
            "them, or disable the other with @conda(disabled=True)"
        )
    if id_:
        conda_steps.keep_entrypoint(made.decorators)
        found = conda_steps.conda_packages(
            made.environment,
            made.step,
            made.platform,
            metaflow_config.SANDBOX_MICROMAMBA_PATH,
            metaflow_config.SANDBOX_STAGE_MICROMAMBA,
            cache,
        )
        return packages.with_conda(attributes, spec, features, found)
    names_some = attributes["packages"] is not None or attributes["requirements"] is not None
    if kind == "uv" and Feature.HOST_PYTHON not in features and not names_some:
        text = conda_steps.uv_requirements(flow, packages.metaflows_own())
        return packages.prepare(attributes, spec, features, default_image, flow, made.platform, cache, text)
    if not asks_for_packages(attributes):
        return None
    text = packages.requirements(attributes["requirements"], flow)
    return packages.prepare(attributes, spec, features, default_image, flow, made.platform, cache, text)
