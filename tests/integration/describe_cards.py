"""What the cards of a run hold, as JSON-able values; its source is run where the flow ran."""

import base64
import json
import re

from metaflow import Run, namespace
from metaflow.cards import get_cards
from metaflow.plugins.cards.exception import CardNotPresentException

PAYLOAD = re.compile(r'window\.__MF_DATA__\["[^"]*"\] = "([A-Za-z0-9+/=]+)"')


def describe_cards(pathspec):
    """{STEP: [{"type", "id", "page", "data"}, …]}: ``page`` is its HTML, ``data`` its last update."""
    namespace(None)
    run = Run(pathspec)
    return {step.id: sorted(cards_of(step.task, run.id), key=repr) for step in run}


def cards_of(task, run_id):
    """The cards of a task; none while the first one is being rendered."""
    try:
        found = list(get_cards(task))
    except CardNotPresentException:
        return []
    return [
        {
            "type": card.type,
            "id": card.id,
            "page": neutral(json.loads(base64.b64decode(PAYLOAD.search(card.get())[1])), run_id),
            "data": neutral(card.get_data(), run_id),
        }
        for card in found
    ]


def neutral(value, run_id):
    """Without the run, the times and the random ids; tags have no order."""
    if isinstance(value, dict):
        return {
            neutral(key, run_id): neutral(item, run_id)
            for key, item in value.items()
            if key not in ("created_on", "created_at", "finished_at")
        }
    if isinstance(value, list):
        return [neutral(item, run_id) for item in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [AP]M|^\d+:\d\d:\d\d(\.\d+)?$", "<time>", value)
    value = re.sub(r"_[0-9a-f]{6}$", "_<id>", value.replace(run_id, "<run>"))
    return ", ".join(sorted(value.split(", "))) if "metaflow_version:" in value else value
