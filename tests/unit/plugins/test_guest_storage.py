"""The datastore inside a sandbox, through a real relay that may be far away."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from metaflow.datastore.content_addressed_store import ContentAddressedStore

from metaflow_extensions.sandbox.guest.ahead import Object
from metaflow_extensions.sandbox.guest.client import RelayClient
from metaflow_extensions.sandbox.plugins.guest_providers import storage as module
from metaflow_extensions.sandbox.plugins.guest_providers.relay import RelayException
from metaflow_extensions.sandbox.plugins.guest_providers.storage import (
    MEASURED,
    SLOW,
    SMALL,
    LocalRelayStorage,
)

from ..relay.parts import INPUT, OWN, Bench, DirectoryStorage, listening

DOCUMENTS = ("data.json", "attempt.json", "DONE.lock")
SMALL_ONES = [b"%d" % number for number in range(40)]
LARGE_ONE = os.urandom(3 * SMALL)


class Far(DirectoryStorage):
    """Counts what it is asked, and takes its time to answer."""

    delay = 0.0  # seconds

    def is_file(self, paths: Sequence[str]) -> list[bool]:
        self.asked = [*getattr(self, "asked", []), *paths]
        time.sleep(self.delay)
        return super().is_file(paths)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """The datastore behind the relay."""
    bench = Bench(tmp_path)
    bench.storage.__class__ = Far
    with listening(bench.relay) as address:
        for name in ("client", "questions"):
            monkeypatch.setattr(module, name, RelayClient(address))
        monkeypatch.setattr(module, "asked", module.Questions())
        assert isinstance(bench.storage, Far)
        yield bench.storage
        for kept in (module.client, module.questions):
            kept.connection().close()
    bench.relay.close()


def save(*contents: bytes) -> None:
    """As Metaflow saves artifacts, and read back."""
    blobs = ContentAddressedStore("Flow/data", LocalRelayStorage("/data"))
    keys = [result.key for result in blobs.save_blobs(iter(contents))]
    assert [content for _, content in blobs.load_blobs(keys)] == list(contents)


def test_a_far_datastore_is_not_asked_for_every_small_object(far: Far) -> None:
    """Guards a thousand small artifacts against a round trip to a cloud for each."""
    far.delay = 3 * SLOW
    save(*SMALL_ONES)
    assert len(far.asked) == MEASURED
    save(*SMALL_ONES)
    assert len(far.asked) == MEASURED
    stored = [path for path in far.root.rglob("data/*/*") if not path.name.endswith("_meta")]
    assert len(stored) == len(SMALL_ONES)


def test_large_objects_are_sent_once(far: Far) -> None:
    """Guards against an artifact that goes over the network again with every retry."""
    far.delay = 3 * SLOW
    save(*SMALL_ONES, LARGE_ONE)
    saved = len(far.saved)
    save(LARGE_ONE)
    assert len(far.saved) == saved


def test_a_near_datastore_is_asked(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against packing again what is there, where asking costs nothing."""
    monkeypatch.setattr(module, "SLOW", 60.0)
    save(*SMALL_ONES)
    saved = len(far.saved)
    save(*SMALL_ONES)
    assert len(far.asked) == 2 * len(SMALL_ONES)
    assert len(far.saved) == saved


def test_nothing_is_marked_as_done_whose_records_were_refused(far: Far) -> None:
    """Guards the mark that a run's readers go by against records that are still under way when it is set."""
    mark = f"{OWN}/1.DONE.lock"
    module.client.post("register_metadata", items=[{"field": "a", "value": "b", "type": "c", "tags": 7}])
    with pytest.raises(RelayException, match="tags"):
        LocalRelayStorage("/data").save_bytes([(mark, io.BytesIO(b""))])
    assert not (far.root / mark).exists()


def test_documents_of_a_task_come_together(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a join of many inputs: Metaflow asks for eighteen files of each, most of which are not there."""
    there = {f"{INPUT}/0.{name}" for name in DOCUMENTS}
    for path in there:
        (far.root / path).parent.mkdir(parents=True, exist_ok=True)
        (far.root / path).write_text("{}")
    asked: list[int] = []
    load_all = module.client.load_all

    def counting(store: str, paths: list[str], count: int) -> list[Object]:
        asked.append(len(paths))
        return load_all(store, paths, count)

    monkeypatch.setattr(module.client, "load_all", counting)
    paths = [f"{INPUT}/{attempt}.{name}" for attempt in range(100) for name in DOCUMENTS]
    before = len(list(Path("/proc/self/fd").iterdir()))
    with LocalRelayStorage("/data").load_bytes(paths) as loaded:
        found = [(path, local and Path(local).read_text()) for path, local, _ in loaded]
        # The relay's socket, and none for each document.
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert found == [(path, "{}" if path in there else None) for path in paths]
    assert asked == [256, 44]


def test_a_document_that_may_not_be_read(far: Far) -> None:
    """Guards against a refusal that looks like a task without results."""
    paths = [f"{INPUT}/0.data.json", "Flow/13/start/3/0.data.json"]
    storage = LocalRelayStorage("/data")
    with storage.load_bytes(paths) as loaded, pytest.raises(RelayException, match="refused"):
        list(loaded)
