"""One line for whose runs metaflow-local-service records: what it cannot answer, and what does."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from metaflow.metaflow_config import SERVICE_URL
from metaflow.plugins.metadata_providers.service import ServiceMetadataProvider

# Of metaflow-local-service 0.2, in the home of who runs it.
STATE = Path(".metaflow-local-service", "state.json")
TOLD = Path(".metaflow-sandbox", "service", "told.json")
LINE = (
    "[sandbox] metaflow-local-service cannot look up a single artifact: run.successful and task['name'] read "
    "wrong through it. Through this they do not: metaflow-sandbox service run python flow.py run\n"
)


class TellingServiceMetadata(ServiceMetadataProvider):
    """``--metadata service``, where the service is on this machine: Metaflow's own."""

    TYPE = "service"

    def start_run_heartbeat(self, flow_id: str, run_id: str) -> None:
        """The start of a run."""
        say_what_it_lacks(SERVICE_URL)
        super().start_run_heartbeat(flow_id, run_id)


def say_what_it_lacks(url: str | None) -> None:
    """Say so if that is the service at ``url``, once for each time that it was started."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without one
        return
    state = known(home / STATE)
    if state is None or url != f"http://127.0.0.1:{state.get('port')}" or known(home / TOLD) == state:
        return
    sys.stderr.write(LINE)
    # Where the home cannot be written, every run says it.
    with suppress(OSError):
        (home / TOLD).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / TOLD).write_text(json.dumps(state))


def known(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
