"""The values of METAFLOW_SANDBOX_…, which are text until they are used."""

from __future__ import annotations

import math
from typing import Any

from metaflow import metaflow_config

from ..errors import UnsupportedOption


def setting(name: str) -> Any:
    """The value of METAFLOW_SANDBOX_NAME."""
    return getattr(metaflow_config, f"SANDBOX_{name}")


def number(name: str) -> int:
    """The setting as a whole number. Raises UnsupportedOption for anything else."""
    try:
        value = int(setting(name))
    except (TypeError, ValueError):
        value = -1
    if value < 0:
        raise UnsupportedOption(
            f"METAFLOW_SANDBOX_{name} is a whole number, 0 or more; it is {setting(name)!r}"
        )
    return value


def rate(name: str) -> float:
    """The setting as a number a second, 0 for any. Raises UnsupportedOption for anything else."""
    try:
        value = float(setting(name))
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UnsupportedOption(
            f"METAFLOW_SANDBOX_{name} is a number of sandboxes a second, 0 for any; it is {setting(name)!r}"
        )
    return value
