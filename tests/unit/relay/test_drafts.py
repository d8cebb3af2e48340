"""Names of what a task in direct mode hands in."""

from __future__ import annotations

from metaflow_extensions.sandbox.relay.drafts import RECORDS, draft_names, own_file
from metaflow_extensions.sandbox.relay.policy import Policy

from .parts import IDENTITY, OWN


def test_only_what_the_scheduler_reads_is_a_draft() -> None:
    """Guards against a file of Metaflow's that is looked for under a name that it does not have."""
    task = f"Flow/{IDENTITY.key}"
    assert draft_names(task) == {
        f"{OWN}/1.data.json": f"{OWN}/1.sandbox_data.json",
        f"{OWN}/1.DONE.lock": f"{OWN}/1.sandbox_DONE.lock",
    }
    own = Policy(IDENTITY, frozenset())
    # All of them are files of the attempt itself.
    for name in (*draft_names(task).values(), own_file(task, RECORDS)):
        own.writing(name)
