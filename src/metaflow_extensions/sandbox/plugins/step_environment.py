"""The whole environment of a sandboxed step: nothing of the launcher's that is not named here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from metaflow.metaflow_config import DEFAULT_SECRETS_BACKEND_TYPE
from metaflow.plugins.cards.card_datastore import CardDatastore
from metaflow.util import get_username

from .guest_providers.storage import LOCAL_CARD_ROOT

# Facts about this run that Metaflow itself hands to its tasks.
HANDED_ON = (
    "METAFLOW_CODE_METADATA",
    "METAFLOW_CODE_SHA",
    "METAFLOW_CODE_URL",
    "METAFLOW_CODE_DS",
    "METAFLOW_RUNTIME_NAME",
)
# Metaflow has no usable setting for the root of local cards: the guest's storage puts ours in its place.
CARD_ROOTS = {
    "local": LOCAL_CARD_ROOT,
    "spin": LOCAL_CARD_ROOT,
    "s3": "METAFLOW_CARD_S3ROOT",
    "azure": "METAFLOW_CARD_AZUREROOT",
    "gs": "METAFLOW_CARD_GSROOT",
}


def card_root(datastore_type: str, datastore_root: str) -> str:
    """Where the cards of a datastore are kept; Metaflow falls back to the datastore's own root."""
    return str(CardDatastore.get_storage_root(datastore_type) or datastore_root)


def step_environment(
    *,
    run_id: str,
    datastore_type: str,
    cards: str,
    metadata_type: str,
    metadata_info: str,
    python_path: Iterable[str],
    user_variables: Mapping[str, str],
) -> dict[str, str]:
    """Environment variables; the user's win over ours except for the names that we need.

    ``cards`` is the root of the cards in a datastore of that type.
    """
    user = get_username() or "sandbox"
    ours: dict[str, Any] = {
        "METAFLOW_SANDBOX_GUEST": "1",
        "METAFLOW_SANDBOX_METADATA_INFO": metadata_info,
        "METAFLOW_RUN_ID": run_id,
        "METAFLOW_USER": user,
        "METAFLOW_DEFAULT_METADATA": metadata_type,
        "METAFLOW_DEFAULT_DATASTORE": datastore_type,
        # Anything but "local", which Metaflow takes for the launcher's own machine.
        "METAFLOW_RUNTIME_ENVIRONMENT": "sandbox",
        CARD_ROOTS[datastore_type]: cards,
    }
    if DEFAULT_SECRETS_BACKEND_TYPE:
        ours["METAFLOW_DEFAULT_SECRETS_BACKEND_TYPE"] = DEFAULT_SECRETS_BACKEND_TYPE
    paths = os.pathsep.join(python_path)
    defaults = {"USER": user, "PYTHONUNBUFFERED": "x", **({"PYTHONPATH": paths} if paths else {})}
    handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    return {**defaults, **handed_on, **user_variables, **ours}
