"""Registers with the flow's metadata provider what a task in direct mode has written about itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import RelayError
from ..relay.intake import Intake
from ..relay.policy import TaskIdentity
from ..relay.records import ATTEMPT_DONE, Entry, check_artifact, check_entry
from ..relay.records_archive import Records
from ..relay.services import Services

APART = 0.002  # seconds: of two entries of a field in one millisecond the local provider keeps one


class Replay:
    """One attempt's; each record is registered once, however often and in however many pieces it comes.

    ``datastore`` is TYPE@ROOT, ``facts`` are the fields whose values the launcher knows, ``say`` is told what
    is refused, once.
    """

    def __init__(
        self,
        identity: TaskIdentity,
        datastore: str,
        services: Callable[[], Services],
        facts: Mapping[str, str],
        intake: Intake,
        say: Callable[[str], None],
    ) -> None:
        self._identity, self._datastore = identity, datastore
        self._services, self._facts, self._intake, self._say = services, facts, intake, say
        self.done = False  # whether the provider knows that the attempt is
        self._told: set[str] = set()
        self._artifacts_told = False
        self._refused: set[str] = set()
        # Whether a request has failed whose effect is not known.
        self._uncertain = False

    def register(self, records: Records, *, complete: bool) -> None:
        """Register what is new; artifacts, and that the attempt is done, once its results are ``complete``.

        Raises what the provider raises.
        """
        for reason in records.refused:
            self.refuse(reason)
        known = self._known("metadata") if self._uncertain else []
        there = {(each["field_name"], each["value"], each["type"]) for each in known}
        for batch in self._batches(records.entries, complete):
            new = [entry for entry in batch.values() if entry[:3] not in there]
            if new:
                self._send(lambda new=new: self._services().register_metadata(self._identity, new))  # type: ignore[misc]
                time.sleep(APART)
            self._told.update(batch)
            self.done = self.done or any(entry[0] == ATTEMPT_DONE for entry in batch.values())
        if complete and records.artifacts and not self._artifacts_told:
            self._register_artifacts(records.artifacts)
            self._artifacts_told = True

    def refuse(self, reason: str) -> None:
        """Say that something was refused, once."""
        if reason not in self._refused:
            self._refused.add(reason)
            self._say(reason)

    def _batches(self, entries: Mapping[str, Entry], complete: bool) -> Iterable[dict[str, Entry]]:
        """Entries that may be registered, in order, as many at once as have different fields."""
        batch: dict[str, Entry] = {}
        fields: set[str] = set()
        for name, entry in entries.items():
            field = entry[0]
            if name in self._told or name in self._refused or (field == ATTEMPT_DONE and not complete):
                continue
            try:
                check_entry(entry, self._identity, self._facts)
                self._intake.budget.take_pieces(1, len(entry[1] or ""))
            except RelayError as error:
                self._refused.add(name)
                self._say(str(error))
                continue
            if field in fields:
                yield batch
                batch, fields = {}, set()
            batch[name] = entry
            fields.add(field)
        if batch:
            yield batch

    def _register_artifacts(self, artifacts: Iterable[Mapping[str, str | None]]) -> None:
        there = {each["name"] for each in self._known("artifact")} if self._uncertain else set()
        accepted = {}
        for entry in artifacts:
            try:
                check_artifact(entry, self._datastore, self._intake.accepted)
                accepted[entry["name"]] = entry
            except RelayError as error:  # noqa: PERF203 -- the others are registered
                self.refuse(str(error))
        new = [entry for name, entry in accepted.items() if name not in there]
        if new:
            self._send(lambda: self._services().register_artifacts(self._identity, new))

    def _send(self, request: Callable[[], None]) -> None:
        self._uncertain = True
        request()
        self._uncertain = False

    def _known(self, kind: str) -> list[dict[str, Any]]:
        """What the provider has of the attempt."""
        me = self._identity
        path = [me.flow, me.run, me.step, me.task]
        attempt = me.attempt if kind == "artifact" else None
        found = self._services().metadata_object("task", kind, {}, attempt, path)
        return found if isinstance(found, list) else [found] if found else []
