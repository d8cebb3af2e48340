"""What reaches the datastore of all that a task sends."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.budget import PIECE
from metaflow_extensions.sandbox.relay.intake import Intake
from metaflow_extensions.sandbox.relay.policy import Kind
from metaflow_extensions.sandbox.relay.services import Limits
from metaflow_extensions.sandbox.relay.vetting import ArtifactPolicy

from .parts import INPUT, OWN, PACKED, RAW, DirectoryStorage, blob_path, bomb, document, sha1

DATA = f"{OWN}/1.data.json"
DONE = f"{OWN}/1.DONE.lock"
GOOD, EVIL = gzip.compress(b"good", mtime=0), gzip.compress(b"evil", mtime=0)


class Inbox:
    """An intake and its storage."""

    def __init__(
        self,
        place: Path,
        limits: Limits | None = None,
        artifacts: ArtifactPolicy | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self.storage = DirectoryStorage(place / "data")
        artifacts = artifacts or ArtifactPolicy()
        self.intake = Intake("Flow", place, limits or Limits(), artifacts, direct=direct)

    def take(
        self,
        kind: Kind,
        path: str,
        content: bytes | Iterator[bytes],
        meta: Any = None,
        overwrite: bool = True,
    ) -> None:
        chunks = iter([content]) if isinstance(content, bytes) else content
        self.intake.receive(self.storage, kind, path, chunks, meta, overwrite=overwrite)

    def blob(self, content: bytes) -> str:
        self.take(Kind.BLOB, blob_path(content), gzip.compress(content), PACKED)
        return sha1(content)

    def hand_in(self, **objects: bytes) -> None:
        self.take(Kind.OWN, DATA, document({name: self.blob(raw) for name, raw in objects.items()}))

    def stored(self, path: str) -> bytes | None:
        file = self.storage.root / path
        return file.read_bytes() if file.exists() else None


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_blobs(inbox: Inbox) -> None:
    """Guards against blobs that are stored otherwise than they were sent."""
    content = random.Random(1).randbytes(3 << 20)
    packed = gzip.compress(content, 1)
    inbox.take(
        Kind.BLOB, blob_path(content), (packed[i : i + 9999] for i in range(0, len(packed), 9999)), PACKED
    )
    assert inbox.stored(blob_path(content)) == packed
    inbox.take(Kind.BLOB, blob_path(b"raw"), b"raw", RAW)
    assert inbox.stored(blob_path(b"raw")) == b"raw"


def test_metadata_is_written_in_one_form(inbox: Inbox) -> None:
    """Guards against metadata that means one thing to us and another to Metaflow."""
    inbox.take(Kind.BLOB, blob_path(b"a"), b"a", {"cas_raw": True, "cas_version": True})
    assert json.loads(inbox.stored(blob_path(b"a") + "_meta") or b"") == RAW
    assert b'true, "cas_version": 1}' in (inbox.stored(blob_path(b"a") + "_meta") or b"")


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        {"cas_raw": False},
        {"cas_version": 1},
        {"cas_raw": False, "cas_version": 2},
        {"cas_raw": 0, "cas_version": 1},
        {"cas_raw": None, "cas_version": 1},
        {"cas_raw": "yes", "cas_version": 1},
        {"cas_raw": False, "cas_version": "1"},
        {"cas_raw": False, "cas_version": [1]},
        {"cas_raw": False, "cas_version": 1, "more": 1},
    ],
)
def test_metadata_of_no_blob(inbox: Inbox, meta: Any) -> None:
    """Guards against metadata that makes Metaflow unpack a blob by other rules than it was checked by."""
    with pytest.raises(RelayError):
        inbox.take(Kind.BLOB, blob_path(b"a"), gzip.compress(b"a"), meta)
    assert inbox.storage.saved == []


@pytest.mark.parametrize(
    ("stored", "meta"),
    [
        (EVIL, PACKED),
        (b"evil", RAW),
        (b"good", PACKED),
        (GOOD, RAW),
        (GOOD[:-1], PACKED),
        (GOOD + b"x", PACKED),
        (GOOD + EVIL, PACKED),
        (b"", PACKED),
        (b"", RAW),
    ],
)
def test_a_blob_is_what_its_name_says(inbox: Inbox, stored: bytes, meta: Any) -> None:
    """Guards against one task's bytes under the name of another's."""
    with pytest.raises(RelayError):
        inbox.take(Kind.BLOB, blob_path(b"good"), stored, meta)
    assert inbox.stored(blob_path(b"good")) is None


def test_a_blob_is_written_once(inbox: Inbox) -> None:
    """Guards against the bytes of an existing blob being exchanged, even for others with that content."""
    inbox.take(Kind.BLOB, blob_path(b"a"), gzip.compress(b"a"), PACKED)
    before = inbox.stored(blob_path(b"a"))
    inbox.take(Kind.BLOB, blob_path(b"a"), b"a", RAW, overwrite=True)
    assert inbox.stored(blob_path(b"a")) == before
    assert json.loads(inbox.stored(blob_path(b"a") + "_meta") or b"") == PACKED


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    """Guards against small uploads that fill the launcher's memory or disk."""
    inbox = Inbox(tmp_path, Limits(artifact=1 << 20))
    key, packed = packed_zeros(b"", 512, b"")
    with traced() as peak, pytest.raises(RelayError, match="1048576"):
        inbox.take(Kind.BLOB, f"Flow/data/{key[:2]}/{key}", packed, PACKED)
    assert peak() < 16 << 20
    assert inbox.storage.saved == []


def packed_zeros(before: bytes, mebibytes: int, behind: bytes) -> tuple[str, bytes]:
    """(SHA-1, gzip) of many zeros between other bytes, made without holding them."""
    digest, packer = hashlib.sha1(usedforsecurity=False), zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    packed = b""
    for chunk in (before, *[bytes(1 << 20)] * mebibytes, behind):
        digest.update(chunk)
        packed += packer.compress(chunk)
    return digest.hexdigest(), packed + packer.flush()


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Most bytes that Python held at once."""
    tracemalloc.start()
    try:
        yield lambda: peak
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def test_upload_limit(tmp_path: Path) -> None:
    """Guards against an endless stream, and against many that are small."""
    inbox = Inbox(tmp_path, Limits(task=2 << 20))
    with pytest.raises(RelayError, match="METAFLOW_SANDBOX_MAX_UPLOAD"):
        inbox.take(Kind.BLOB, blob_path(b"a"), (b"x" * 1000 for _ in iter(int, 1)), RAW)
    with pytest.raises(RelayError, match="METAFLOW_SANDBOX_MAX_UPLOAD"):
        inbox.take(Kind.OWN, f"{OWN}/1.x.json", b"{}")
    assert list(tmp_path.rglob("*")) == []


def test_file_limit(tmp_path: Path) -> None:
    """Guards against cards and records that fill the launcher's disk one by one."""
    inbox = Inbox(tmp_path, Limits(file=1000))
    inbox.take(Kind.CARD, "card", b"x" * 1000)
    for kind in (Kind.CARD, Kind.OWN):
        with pytest.raises(RelayError, match="over 0 MiB"):
            inbox.take(kind, f"{OWN}/1.other", iter([b"x" * 600, b"x" * 401]))


def test_number_of_files(tmp_path: Path) -> None:
    """Guards against empty files without number."""
    inbox = Inbox(tmp_path, Limits(task=5 * PIECE))
    with pytest.raises(RelayError):
        for number in range(10):
            inbox.take(Kind.OWN, f"{OWN}/1.{number}", b"")
    assert len(inbox.storage.saved) == 5


@pytest.mark.parametrize("kind", [Kind.OWN, Kind.CARD])
def test_only_blobs_have_metadata(inbox: Inbox, kind: Kind) -> None:
    """Guards against metadata on what Metaflow reads without any."""
    with pytest.raises(RelayError, match="metadata"):
        inbox.take(kind, f"{OWN}/1.x", b"", PACKED)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"a": 1} {"b": 2}',
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[" * 33 + b"]" * 33,
        b"[" * 100_000,
        b"[" + b"[]," * 600_000 + b"[]]",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_of_the_task(inbox: Inbox, raw: bytes) -> None:
    """Guards against JSON that readers understand differently, or that costs them dear."""
    for path in (f"{OWN}/1.attempt.json", DATA):
        with pytest.raises(RelayError):
            inbox.take(Kind.OWN, path, raw)
    assert inbox.storage.saved == []


def test_what_is_no_json_is_stored_as_it_is(inbox: Inbox) -> None:
    """Guards against logs and markers being changed."""
    inbox.take(Kind.OWN, f"{OWN}/1.task_stdout.log", b"\0\xff{")
    assert inbox.stored(f"{OWN}/1.task_stdout.log") == b"\0\xff{"


@pytest.mark.parametrize(
    "name",
    [
        "_transition",
        "_foreach_stack",
        "_foreach_num_splits",
        "_foreach_var",
        "_task_ok",
        "_success",
        "_unbounded_foreach",
        "_control_mapper_tasks",
        "_control_task_is_mapper_zero",
        "_iteration_stack",
    ],
)
def test_what_the_scheduler_unpickles_is_vetted(inbox: Inbox, tmp_path: Path, name: str) -> None:
    """Guards against code of the task's in the scheduler; nothing of it is stored as the task's result."""
    canary = tmp_path / "canary"
    with pytest.raises(RelayError, match=name):
        inbox.hand_in(**{name: bomb(canary), "x": pickle.dumps(1)})
    assert inbox.stored(DATA) is None
    assert inbox.intake.accepted == {}
    assert not canary.exists()
    with pytest.raises(RelayError, match="results"):
        inbox.take(Kind.OWN, DONE, b"")


def test_the_artifact_that_foreach_var_names(inbox: Inbox, tmp_path: Path) -> None:
    """Guards against the one artifact that a task lets the scheduler unpickle by naming it."""
    honest = {"_foreach_var": pickle.dumps("items", 4), "_unbounded_foreach": pickle.dumps(True, 4)}
    with pytest.raises(RelayError, match="items"):
        inbox.hand_in(items=bomb(tmp_path / "canary"), **honest)
    inbox.hand_in(items=bomb(tmp_path / "canary"), _foreach_var=honest["_foreach_var"])


@pytest.mark.parametrize("encoding", ["", "json", "pickle-v9", "gzip+pickle-v2 ", None, 4])
def test_another_encoding(inbox: Inbox, encoding: Any) -> None:
    """Guards against another serializer of the launcher's being chosen for what the scheduler reads."""
    key = inbox.blob(pickle.dumps(True, 4))
    with pytest.raises(RelayError):
        inbox.take(Kind.OWN, DATA, document({"_task_ok": key}, _task_ok=encoding))


def test_honest_results(inbox: Inbox) -> None:
    """Guards against refusing what every task hands in."""
    inbox.hand_in(
        _task_ok=pickle.dumps(True, 4), _transition=pickle.dumps((["end"], None), 4), x=pickle.dumps([1])
    )
    assert set(inbox.intake.accepted) == {"_task_ok", "_transition", "x"}
    assert inbox.intake.accepted["x"] == (sha1(pickle.dumps([1])), "gzip+pickle-v4")
    assert not inbox.intake.done
    inbox.take(Kind.OWN, DONE, b"")
    assert inbox.intake.done
    assert inbox.stored(DONE) == b""


def test_a_blob_that_does_not_exist(inbox: Inbox) -> None:
    """Guards against results that the scheduler would look for in vain, or find later."""
    with pytest.raises(RelayError, match="never saved"):
        inbox.take(Kind.OWN, DATA, document({"_task_ok": "0" * 40}))


def test_a_large_scheduler_artifact(inbox: Inbox) -> None:
    """Guards against an artifact that the scheduler would have to inflate before anything else."""
    with pytest.raises(RelayError, match="too large"):
        inbox.hand_in(_task_ok=pickle.dumps(b"x" * (2 << 20), 4))


def test_nothing_follows_the_mark(inbox: Inbox) -> None:
    """Guards against results that change after the scheduler has read them."""
    inbox.hand_in(_task_ok=pickle.dumps(True, 4))
    inbox.take(Kind.OWN, DONE, b"")
    for path in (DATA, DONE, f"{OWN}/1.attempt.json", f"{OWN}/1.task_stdout.log"):
        with pytest.raises(RelayError, match="done"):
            inbox.take(Kind.OWN, path, b"{}")
    inbox.take(Kind.CARD, "Flow/runs/12/steps/train/tasks/7/cards/a.html", b"late")


def test_what_was_on_its_way_when_the_mark_came(inbox: Inbox) -> None:
    """Guards against a file that was begun before the mark and ends after it."""
    inbox.hand_in(_task_ok=pickle.dumps(True, 4))
    before = inbox.stored(DATA)

    def chunks() -> Iterator[bytes]:
        inbox.take(Kind.OWN, DONE, b"")
        yield document({})

    with pytest.raises(RelayError, match="done"):
        inbox.take(Kind.OWN, DATA, chunks())
    assert inbox.stored(DATA) == before


def test_a_mark_of_another_name(inbox: Inbox) -> None:
    """Guards against a file that only ends like the mark counting as one."""
    inbox.take(Kind.OWN, f"{OWN}/1.x.DONE.lock", b"")
    assert not inbox.intake.done


def test_handing_in_again_and_again(tmp_path: Path) -> None:
    """Guards against a small request that has everything vetted anew."""
    inbox = Inbox(tmp_path, Limits(documents=3))
    for _ in range(3):
        inbox.hand_in(_task_ok=pickle.dumps(True, 4))
    with pytest.raises(RelayError, match="more than 3"):
        inbox.hand_in(_task_ok=pickle.dumps(True, 4))


VETTED = ArtifactPolicy("vetted")


def test_vetted_artifacts(tmp_path: Path) -> None:
    """Guards against custom classes under "vetted", small or large enough to be read from disk."""
    inbox = Inbox(tmp_path, artifacts=VETTED)
    inbox.hand_in(x=pickle.dumps({"a": [1.5, "b", (None, b"c" * (3 << 20))]}, 4))
    for padding in (b"", b"c" * (3 << 20)):
        with pytest.raises(RelayError, match=r"test_intake\.Custom"):
            inbox.hand_in(x=pickle.dumps((padding, Custom()), 4))
    trusting = Inbox(tmp_path / "other", artifacts=ArtifactPolicy("vetted", ("tests.*",)))
    trusting.hand_in(x=pickle.dumps(Custom(), 4))


class Custom:
    """A class of the user's."""


def test_inherited_artifacts_pass(tmp_path: Path) -> None:
    """Guards against refusing what an unsandboxed step has made and this one passes on."""
    inbox = Inbox(tmp_path, artifacts=VETTED)
    evil = bomb(tmp_path / "canary")
    with pytest.raises(RelayError):
        inbox.hand_in(model=evil)
    inbox.intake.note_input(Kind.INPUT, f"{INPUT}/0.data.json", io.BytesIO(document({"model": sha1(evil)})))
    inbox.hand_in(model=evil)
    with pytest.raises(RelayError, match="_transition"):
        inbox.hand_in(_transition=evil)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (Kind.OWN, DATA),
        (Kind.CARD, "Flow/runs/12/steps/train/tasks/7/cards/1.data.json"),
        (Kind.INPUT, f"{INPUT}/0.x.data.json"),
        (Kind.INPUT, f"{INPUT}/x0.data.json"),
    ],
)
def test_only_inputs_vouch(tmp_path: Path, kind: Kind, path: str) -> None:
    """Guards against a task that vouches for its own artifacts, or through a file that was never vetted."""
    inbox = Inbox(tmp_path, artifacts=VETTED)
    evil = bomb(tmp_path / "canary")
    inbox.intake.note_input(kind, path, io.BytesIO(document({"model": sha1(evil)})))
    with pytest.raises(RelayError):
        inbox.hand_in(model=evil)


def test_a_bomb_that_is_vetted(tmp_path: Path) -> None:
    """Guards against memory filled by vetting what is within the limit of an artifact."""
    inbox = Inbox(tmp_path, artifacts=VETTED)
    key, packed = packed_zeros(b"\x80\x04B" + (128 << 20).to_bytes(4, "little"), 128, b".")
    inbox.take(Kind.BLOB, f"Flow/data/{key[:2]}/{key}", packed, PACKED)
    with traced() as peak:
        inbox.take(Kind.OWN, DATA, document({"x": key}))
    assert peak() < 16 << 20


def test_direct_blobs_are_what_their_name_says(tmp_path: Path) -> None:
    """Guards against blobs that the step itself wrote to the datastore under another's name."""
    inbox = Inbox(tmp_path, direct=True)
    honest, other = pickle.dumps(True, 4), pickle.dumps(False, 4)
    inbox.storage.save_bytes(iter([(blob_path(honest), (io.BytesIO(gzip.compress(other)), PACKED))]))
    with pytest.raises(RelayError, match="hashes to another key"):
        inbox.intake.hand_in(inbox.storage, DATA, document({"_task_ok": sha1(honest)}), overwrite=True)
    assert inbox.stored(DATA) is None
    inbox.storage.save_bytes(
        iter([(blob_path(honest), (io.BytesIO(gzip.compress(honest)), PACKED))]), overwrite=True
    )
    inbox.intake.hand_in(inbox.storage, DATA, document({"_task_ok": sha1(honest)}), overwrite=True)
    assert inbox.intake.accepted == {"_task_ok": (sha1(honest), "gzip+pickle-v4")}
