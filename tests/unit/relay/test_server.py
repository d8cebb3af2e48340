"""A guest that speaks to the relay as it likes."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import pickle
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.guest.frames import (
    LENGTHS,
    MAX_HEADER,
    MAX_PARTS,
    MAX_PAYLOAD,
    encode_frame,
    read_stream,
)
from metaflow_extensions.sandbox.relay.policy import Kind
from metaflow_extensions.sandbox.relay.server import MAX_ENTRIES
from metaflow_extensions.sandbox.relay.services import Limits, SecretSource

from .parts import (
    CARDS,
    IDENTITY,
    INPUT,
    OTHER_STORE,
    OWN,
    PACKED,
    RAW,
    STORE,
    WAIT,
    Bench,
    Guest,
    blob_path,
    bomb,
    document,
    save_blob,
    settle,
    sha1,
)

FOREIGN = "Flow/13/train/7/1.data.json"
VERBS: dict[str, dict[str, Any]] = {
    "is_file": {"store": STORE, "paths": [f"{INPUT}/0.data.json"]},
    "info_file": {"store": STORE, "path": f"{INPUT}/0.data.json"},
    "size_file": {"store": STORE, "path": f"{INPUT}/0.data.json"},
    "list_content": {"store": STORE, "paths": [INPUT]},
    "load": {"store": STORE, "path": f"{INPUT}/none"},
    "include": {"type": "local", "url": "local:///x"},
    "register_task": {},
    "register_metadata": {"items": [{"field": "a", "value": "b", "type": "c", "tags": []}]},
    "register_artifacts": {"items": []},
    "heartbeat": {},
    "settle": {},
    "metadata_object": {
        "kind": "run",
        "sub_kind": "self",
        "filters": {},
        "attempt": None,
        "path": ["Flow", "12"],
    },
    "secret": {"type": "inline", "id": "", "options": {"env": 1}, "role": None},
}
SECRET = SecretSource("inline", "", {"env": 1}, "the-launchers-role")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, secrets=[SECRET], facts={"ds-type": "local"})
    yield made
    made.relay.close()


@pytest.fixture
def guest(bench: Bench) -> Iterator[Guest]:
    with bench.guest() as connected:
        yield connected


def refused(bench: Bench, answer: dict[str, Any]) -> bool:
    """Whether the answer is a refusal that was told and counted."""
    return (
        answer.get("error", "").startswith("refused: ") and answer["error"][9:] == bench.observer.refusals[-1]
    )


# --- what an honest guest does ----------------------------------------------------------------


def test_every_verb(bench: Bench, guest: Guest) -> None:
    """Guards against a verb that does not answer what Metaflow asks."""
    bench.put(f"{INPUT}/0.data.json", b"content")
    answers = {verb: guest.ask(verb=verb, **fields) for verb, fields in VERBS.items()}
    assert answers["is_file"] == {"exists": [True]}
    assert answers["info_file"] == {"exists": True, "meta": None}
    assert answers["size_file"] == {"size": 7}
    assert answers["list_content"] == {"entries": [[f"{INPUT}/0.data.json", True]]}
    assert answers["load"] == {"found": False, "meta": None}
    assert answers["metadata_object"] == {"object": {"found": True}}
    assert answers["secret"] == {"values": {"PASSWORD": "hunter2"}}
    assert all("error" not in answer for answer in answers.values())
    assert guest.load(f"{INPUT}/0.data.json") == b"content"
    assert bench.observer.refusals == []


def test_a_task_from_start_to_end(bench: Bench, guest: Guest) -> None:
    """Guards against the order of Metaflow's own requests not working."""
    assert guest.ask(verb="started") == {}
    key = save_blob(guest, pickle.dumps(True, 4))
    assert guest.save(f"{OWN}/1.data.json", document({"_task_ok": key}), overwrite=True) == {}
    assert guest.save(f"{OWN}/1.DONE.lock", b"", overwrite=True) == {}
    assert guest.ask(verb="register_artifacts", items=[artifact("_task_ok", key)]) == {}
    guest.raw(encode_frame({"verb": "ended", "signal": None, "peak_memory": 12.5, "cpu_time": 1}))
    guest.close()
    settle(lambda: len(bench.observer.said) == 4)
    assert bench.observer.said == ["starting", "started", "finished", ("ended", None, 12.5, 1.0)]
    assert bench.observer.refusals == []


def artifact(name: str, key: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ds_type": "local",
        "ds_root": "/data",
        "url": None,
        "type": "gzip+pickle-v4",
        "sha": key,
        **more,
    }


def test_a_large_object_both_ways(bench: Bench, guest: Guest) -> None:
    """Guards against chunks lost or mixed up."""
    content = random.Random(3).randbytes(5 * MAX_PAYLOAD + 17)
    assert guest.save(blob_path(content), content, RAW) == {}
    assert guest.load(blob_path(content)) == content


def test_requests_in_a_row(bench: Bench, guest: Guest) -> None:
    """Guards against answers out of order where requests are sent ahead."""
    for number in range(50):
        bench.put(f"{INPUT}/0.{number}", b"x" * number)
        guest.writer.write(encode_frame({"verb": "size_file", "store": STORE, "path": f"{INPUT}/0.{number}"}))
    assert [guest.answer()["size"] for _ in range(50)] == list(range(50))


def test_several_connections_at_once(bench: Bench) -> None:
    """Guards against connections that disturb each other."""
    contents = [random.Random(number).randbytes(200_000) for number in range(12)]
    failures: list[Any] = []

    def save(content: bytes) -> None:
        with bench.guest() as own:
            for _ in range(3):
                answer = own.save(blob_path(content), content, RAW)
                if answer or own.load(blob_path(content)) != content:
                    failures.append(answer)

    threads = [threading.Thread(target=save, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- fields of the wrong kind -----------------------------------------------------------------

WRONG: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, "", "x\0", "\ud800", "x" * (1 << 20), [], [1], [None], [[]], [{}],
    {}, {"a": 1},
]  # fmt: skip
FIELDS = [
    (verb, field) for verb, fields in {**VERBS, "save": {"store": 1, "path": 1}}.items() for field in fields
]


@pytest.mark.parametrize(("verb", "field"), FIELDS)
def test_fields_of_another_type(bench: Bench, guest: Guest, verb: str, field: str) -> None:
    """Guards against a value of another type reaching a provider, or ending the relay's thread."""
    honest = {"store": STORE, "path": f"{OWN}/1.x"} if verb == "save" else VERBS[verb]
    for value in [*WRONG, "missing"]:
        header = {**honest, "verb": verb, field: value}
        if value == "missing":
            del header[field]
        answer = guest.save(header.get("path"), b"x", store=header.get("store")) if verb == "save" else (
            guest.ask(**header)
        )  # fmt: skip
        assert isinstance(answer, dict)
        if answer.get("found"):
            b"".join(read_stream(guest.reader))
    assert guest.ask(verb="is_file", **VERBS["is_file"]) == {"exists": [False]}
    assert bench.observer.failures == []


@pytest.mark.parametrize("value", WRONG)
def test_items_of_another_type(bench: Bench, guest: Guest, value: Any) -> None:
    """Guards against records with fields that a provider would store as they are."""
    for verb, honest in (
        ("register_metadata", {"field": "a", "value": "b", "type": "c", "tags": ["d"]}),
        ("register_artifacts", artifact("a", "0" * 40)),
    ):
        for field in honest:
            guest.ask(verb=verb, items=[{**honest, field: value}])
    for call in bench.services.calls:
        for field, content, kind, tags in call[2]:
            assert isinstance(field, str)
            assert isinstance(kind, str)
            assert content is None or isinstance(content, str)
            assert all(isinstance(tag, str) for tag in tags)
    assert bench.observer.failures == []


@pytest.mark.parametrize(
    "verb", ["", "nonsense", "__class__", "_save", "serve", None, 1, ["save"], {"a": 1}, "sav\u0435"]
)
def test_unknown_verbs(bench: Bench, guest: Guest, verb: Any) -> None:
    """Guards against names that are looked up anywhere but in the list of verbs."""
    guest.writer.write(encode_frame({"verb": verb, "path": OWN}))
    assert guest.is_cut()
    settle(lambda: bench.observer.refusals)
    assert "unknown verb" in bench.observer.refusals[0]


# --- frames that are none ---------------------------------------------------------------------


def frame(header: bytes, payload: bytes = b"") -> bytes:
    return LENGTHS.pack(len(header), len(payload)) + header + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(b""),
        frame(b"", b"x"),
        frame(b'{"verb": "heartbeat"}', b"payload"),
        frame(b"{}"),
        frame(b"[]"),
        frame(b"null"),
        frame(b'"verb"'),
        frame(b"{"),
        frame(b'{"verb": "heartbeat"} {}'),
        frame(b"\xff\xfe"),
        frame('{"verb": "heartbeat"}'.encode("utf-16")),
        frame(b'{"verb": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        frame(b'{"a": ' * 100_000 + b"1" + b"}" * 100_000),
        frame(b'{"verb": "heartbeat", "a": [' + b"[]," * (MAX_PARTS + 1) + b"1]}"),
        frame(b'{"verb": "heartbeat", "a": ' + b"9" * 5000 + b"}"),
        LENGTHS.pack(MAX_HEADER + 1, 0),
        LENGTHS.pack(0xFFFFFFFF, 0xFFFFFFFF),
        LENGTHS.pack(10, MAX_PAYLOAD + 1),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 8,
    ],
)
def test_bytes_that_are_no_frame(bench: Bench, guest: Guest, data: bytes) -> None:
    """Guards against going on after bytes that cannot be a request."""
    guest.raw(data)
    assert guest.is_cut()
    settle(lambda: bench.observer.refusals)
    assert bench.services.calls == []
    with bench.guest() as other:
        assert other.ask(verb="is_file", **VERBS["is_file"]) == {"exists": [False]}


@pytest.mark.parametrize("data", [b"", b"\0", frame(b'{"verb": "heartbeat"}')[:-1], LENGTHS.pack(100, 0)])
def test_half_a_frame(bench: Bench, guest: Guest, data: bytes) -> None:
    """Guards against half a request being carried out, or counted as hostile when a guest dies."""
    guest.raw(data)
    guest.socket.shutdown(socket.SHUT_WR)
    assert guest.is_cut()
    assert bench.services.calls == []
    assert bench.observer.refusals == []


def test_a_stream_that_is_interrupted(bench: Bench, guest: Guest) -> None:
    """Guards against half an object being stored."""
    header = encode_frame(
        {"verb": "save", "store": STORE, "path": f"{OWN}/1.x", "meta": None, "overwrite": True}
    )
    guest.raw(header + frame(b"", b"half"))
    guest.socket.shutdown(socket.SHUT_WR)
    assert guest.is_cut()
    assert bench.stored(f"{OWN}/1.x") is None
    with bench.guest() as other:
        other.raw(header + frame(b"", b"half") + frame(b'{"verb": "heartbeat"}'))
        assert other.is_cut()
    settle(lambda: bench.observer.refusals)
    assert "interrupted" in bench.observer.refusals[0]
    assert bench.stored(f"{OWN}/1.x") is None
    assert bench.services.calls == []


def test_random_bytes(bench: Bench) -> None:
    """Guards against any bytes that end a thread of the relay otherwise than by cutting the connection."""
    rng = random.Random(11)
    seeds = [encode_frame({"verb": verb, **fields}) for verb, fields in VERBS.items()]
    crashed: list[Any] = []
    hook, threading.excepthook = threading.excepthook, crashed.append
    try:
        for _ in range(300):
            data = bytearray(b"".join(rng.choices(seeds, k=rng.randint(1, 4))))
            for _ in range(rng.randint(0, 6)):
                place = rng.randrange(len(data))
                data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            with bench.guest() as one:
                one.raw(bytes(data))
                one.socket.shutdown(socket.SHUT_WR)
                while one.socket.recv(65536):
                    pass
    finally:
        threading.excepthook = hook
    assert crashed == []
    settle(lambda: not bench.relay._connections)


def test_random_requests(bench: Bench) -> None:
    """Guards against any request that reaches what is not the task's."""
    rng = random.Random(12)
    words: list[Any] = [
        *WRONG,
        STORE,
        OTHER_STORE,
        "s3@bucket",
        FOREIGN,
        f"{OWN}/1.x",
        f"{INPUT}/0.data.json",
    ]
    words += ["../x", "Flow", "12", ["Flow", "12"], ["Flow", "13"], "run", "self", RAW]
    bench.put(FOREIGN, b"foreign")
    with bench.guest() as one:
        for _ in range(2000):
            verb = rng.choice([verb for verb in VERBS if verb not in ("load", "include")])
            answer = one.ask(verb=verb, **{field: rng.choice(words) for field in VERBS[verb]})
            assert "foreign" not in json.dumps(answer)
    assert bench.observer.failures == []
    assert {call[1] for call in bench.services.calls if call[0] in ("metadata", "artifacts", "task")} <= {
        IDENTITY
    }
    assert bench.stored(FOREIGN) == b"foreign"
    assert bench.storage.saved == []


# --- what is not the task's -------------------------------------------------------------------

FOREIGN_PATHS = [
    "Flow/12/train/8/1.data.json",
    "Flow/12/start/4/0.data.json",
    "Flow/13/start/3/0.data.json",
    "Other/12/train/7/1.data.json",
    "Flow/12/train/7/../8/1.data.json",
    "/Flow/12/train/7/1.data.json",
    "../../etc/passwd",
    "/etc/passwd",
    "Flow/12/train/7/1.\u202ex",
    "Flow/12/train/7/1.x\\..\\y",
    "Flow/12/train/7/" + "1" * 2000,
]


@pytest.mark.parametrize("path", FOREIGN_PATHS)
def test_paths_of_others(bench: Bench, guest: Guest, path: str) -> None:
    """Guards against reading, listing, probing or writing what belongs to another task, run or flow."""
    for header in (
        {"verb": "is_file", "paths": [f"{INPUT}/0.data.json", path]},
        {"verb": "info_file", "path": path},
        {"verb": "size_file", "path": path},
        {"verb": "load", "path": path},
        {"verb": "list_content", "paths": [path]},
        {"verb": "list_content", "paths": [path.rpartition("/")[0]]},
    ):
        if path == "Flow/12/train/7/1.\u202ex" and header.get("paths") == [OWN]:
            continue
        if header.get("paths") != [OWN]:
            assert refused(bench, guest.ask(store=STORE, **header)), header
    assert refused(bench, guest.save(path, b"evil"))
    assert bench.storage.saved == []


@pytest.mark.parametrize(
    "name", ["0.data.json", "2.attempt.json", "1.runtime_stdout.log", "1._resume_x", "1.x_meta"]
)
def test_records_that_are_not_the_tasks(bench: Bench, guest: Guest, name: str) -> None:
    """Guards against another attempt's files and the launcher's own records."""
    assert refused(bench, guest.save(f"{OWN}/{name}", b"{}", overwrite=True))
    assert bench.storage.saved == []


@pytest.mark.parametrize(
    "store", ["s3@bucket", "local@/", "local", "", "local@/data/", "LOCAL@/data", OTHER_STORE]
)
def test_other_storages(bench: Bench, guest: Guest, store: str) -> None:
    """Guards against a storage that the task was not given, or was given for reading only."""
    if store != OTHER_STORE:
        assert refused(bench, guest.ask(verb="is_file", store=store, paths=[OWN + "/1.x"]))
        assert refused(bench, guest.ask(verb="load", store=store, path=OWN + "/1.x"))
    assert refused(bench, guest.save(OWN + "/1.x", b"", store=store))


def test_cards_and_results_do_not_mix(bench: Bench, guest: Guest) -> None:
    """Guards against results, or the mark that completes them, where the scheduler does not look."""
    key = save_blob(guest, b"x")
    for path, content, meta in (
        (f"{OWN}/1.data.json", document({"x": key}), None),
        (f"{OWN}/1.DONE.lock", b"", None),
        (blob_path(b"y"), gzip.compress(b"y"), PACKED),
    ):
        assert refused(bench, guest.save(path, content, meta, store=CARDS))
    card = "Flow/runs/12/steps/train/tasks/7/cards/default-1.html"
    assert guest.save(card, b"<html>", store=CARDS) == {}
    assert bench.services.storages[CARDS].saved == [card]
    assert not bench.intake.done


def test_the_storage_of_an_older_run(bench: Bench, guest: Guest) -> None:
    """Guards against a resumed run that cannot read where its origin is."""
    older = bench.services.storages[OTHER_STORE].root / INPUT
    older.mkdir(parents=True)
    (older / "0.x").write_bytes(b"old")
    assert guest.load(f"{INPUT}/0.x", OTHER_STORE) == b"old"


def test_claims_are_not_heard(bench: Bench, guest: Guest) -> None:
    """Guards against a guest that says it is another task."""
    claim = {
        "identity": "Flow/13/x/1",
        "flow": "Other",
        "run": "13",
        "step": "x",
        "task": "1",
        "task_id": "1",
        "attempt": 0,
    }
    for verb in ("register_task", "register_metadata", "heartbeat"):
        assert "error" not in guest.ask(verb=verb, **{**claim, **VERBS[verb], "attempt": 0})
    assert {call[1] for call in bench.services.calls} == {IDENTITY}
    assert refused(bench, guest.ask(verb="is_file", store=STORE, paths=[FOREIGN], **claim))


def test_blobs_of_the_flow(bench: Bench, guest: Guest) -> None:
    """Guards against a blob whose bytes are another's, and against one that is overwritten."""
    key = save_blob(guest, b"honest")
    stored = bench.stored(blob_path(b"honest"))
    assert refused(bench, guest.save(blob_path(b"honest"), gzip.compress(b"evil"), PACKED, overwrite=True))
    assert guest.save(blob_path(b"honest"), b"honest", RAW, overwrite=True) == {}
    assert bench.stored(blob_path(b"honest")) == stored
    assert guest.load(f"Flow/data/{key[:2]}/{key}") == stored
    other = f"Other/data/{key[:2]}/{key}"
    assert refused(bench, guest.save(other, gzip.compress(b"honest"), PACKED))
    assert refused(bench, guest.ask(verb="load", store=STORE, path=other))


def test_what_is_posted_is_done_at_once_and_answered_with_the_next(bench: Bench, guest: Guest) -> None:
    """Guards against small answers one behind the other, which TCP may hold back for 40 ms each."""
    guest.raw(encode_frame({"verb": "heartbeat", "posted": True}))
    settle(lambda: any(call[0] == "beat" for call in bench.services.calls))
    guest.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        guest.socket.recv(1)
    guest.socket.settimeout(WAIT)
    assert guest.ask(verb="settle") == {}
    assert guest.answer() == {}


def test_a_refused_stream_is_read_to_its_end(bench: Bench, guest: Guest) -> None:
    """Guards against the rest of a refused object being taken for requests."""
    evil = encode_frame({"verb": "heartbeat"}) * 100
    assert refused(bench, guest.save(FOREIGN, evil))
    assert refused(bench, guest.save(None, evil))
    assert refused(bench, guest.save(OWN + "/1.x", evil, store="x"))
    assert bench.services.calls == []
    assert guest.ask(verb="heartbeat") == {}


def test_a_refused_stream_without_end(tmp_path: Path) -> None:
    """Guards against a guest that keeps the launcher busy with what was refused long ago."""
    bench = Bench(tmp_path, limits=Limits(task=3 << 20))
    with bench.guest() as one:
        one.writer.write(encode_frame({"verb": "save", "store": STORE, "path": FOREIGN, "meta": None}))
        with pytest.raises(OSError, match=r"."):
            for _ in range(1000):
                one.raw(frame(b"", bytes(MAX_PAYLOAD)))
    settle(lambda: len(bench.observer.refusals) == 1)
    assert "goes on and on" in bench.observer.refusals[0]


# --- vetting ----------------------------------------------------------------------------------


def test_a_hostile_transition(bench: Bench, guest: Guest, tmp_path: Path) -> None:
    """Guards against a pickle of the task's being accepted for the scheduler to load."""
    canary = tmp_path / "canary"
    key = save_blob(guest, bomb(canary))
    assert refused(bench, guest.save(f"{OWN}/1.data.json", document({"_transition": key})))
    assert "_transition" in bench.observer.refusals[-1]
    assert refused(bench, guest.save(f"{OWN}/1.DONE.lock", b""))
    assert bench.storage.saved == [blob_path(bomb(canary))]
    assert "finished" not in bench.observer.said
    assert not canary.exists()


def test_done_then_write(bench: Bench, guest: Guest) -> None:
    """Guards against results that change once they count."""
    key = save_blob(guest, pickle.dumps(True, 4))
    guest.save(f"{OWN}/1.data.json", document({"_task_ok": key}))
    guest.save(f"{OWN}/1.DONE.lock", b"")
    with bench.guest() as other:
        for name in ("1.data.json", "1.DONE.lock", "1.attempt.json"):
            assert refused(bench, other.save(f"{OWN}/{name}", document({}), overwrite=True))
    assert json.loads(bench.stored(f"{OWN}/1.data.json") or b"")["objects"] == {"_task_ok": key}


# --- metadata ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"sha": sha1(b"evil")},
    {"name": "_success"},
    {"name": "../../x"},
    {"name": "x/../../y"},
    {"type": "pickle-v2"},
    {"ds_root": "/older"},
    {"ds_root": "/"},
    {"ds_type": "s3"},
    {"url": "/etc/passwd"},
    {"url": "s3://elsewhere/x"},
    {"url": ""},
])  # fmt: skip
def test_artifacts_that_were_not_saved(bench: Bench, guest: Guest, change: dict[str, str]) -> None:
    """Guards against the client being led to bytes that nobody vetted, or to another place."""
    key = save_blob(guest, b"x")
    save_blob(guest, b"evil")
    honest = artifact("x", key)
    assert refused(bench, guest.ask(verb="register_artifacts", items=[honest]))
    guest.save(f"{OWN}/1.data.json", document({"x": key}))
    assert refused(bench, guest.ask(verb="register_artifacts", items=[honest, {**honest, **change}]))
    assert bench.services.calls == []
    assert guest.ask(verb="register_artifacts", items=[honest]) == {}
    assert bench.services.calls == [("artifacts", IDENTITY, [honest])]


def test_fields_that_lead_elsewhere(bench: Bench, guest: Guest) -> None:
    """Guards against names that become paths, and against entries that only the launcher may make."""
    for field, value in (
        ("../../x", "1"), ("a/b", "1"), ("sandbox-refusals", "0"), ("ds-root", "/etc"), ("attempt", "0"),
        ("ds-type", "s3"),
    ):  # fmt: skip
        item = {"field": field, "value": value, "type": "t", "tags": []}
        assert refused(
            bench, guest.ask(verb="register_metadata", items=[VERBS["register_metadata"]["items"][0], item])
        )  # type: ignore[index]
    assert bench.services.calls == []
    item = {"field": "ds-type", "value": "local", "type": "ds-type", "tags": ["attempt_id:1"]}
    assert guest.ask(verb="register_metadata", items=[item]) == {}


def test_records_without_number(tmp_path: Path) -> None:
    """Guards against a flood of records, each of which is a file or a row."""
    bench = Bench(tmp_path, limits=Limits(pieces=10))
    item = {"field": "a", "value": "b", "type": "c", "tags": []}
    with bench.guest() as one:
        assert one.ask(verb="register_metadata", items=[item] * 10) == {}
        assert refused(bench, one.ask(verb="register_metadata", items=[item]))
    assert sum(len(call[2]) for call in bench.services.calls) == 10


def test_records_that_are_large(tmp_path: Path) -> None:
    """Guards against values that fill the metadata provider."""
    bench = Bench(tmp_path, limits=Limits(task=1 << 20))
    item = {"field": "a", "value": "b" * 700_000, "type": "c", "tags": []}
    with bench.guest() as one:
        assert one.ask(verb="register_metadata", items=[item]) == {}
        assert refused(bench, one.ask(verb="register_metadata", items=[item]))


def test_the_task_is_registered_once(bench: Bench, guest: Guest) -> None:
    """Guards against a request without fields that writes records each time."""
    for _ in range(5):
        assert guest.ask(verb="register_task") == {}
    assert bench.services.calls == [("task", IDENTITY)]


@pytest.mark.parametrize(
    "path", [["Flow", "13"], ["Flow", "12", "..", "13"], ["Flow"], [], ["Flow", "12", "../13"]]
)
@pytest.mark.parametrize("kind", ["root", "flow", "run", "step", "task"])
def test_metadata_of_others(bench: Bench, guest: Guest, path: list[str], kind: str) -> None:
    """Guards against reading what is known of other runs."""
    for sub_kind in ("run", "step", "task", "metadata", "artifact"):
        assert refused(bench, guest.ask(verb="metadata_object", kind=kind, sub_kind=sub_kind, path=path))
    assert bench.services.calls == []


# --- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"type": "aws-secrets-manager"}, {"id": "other"}, {"options": {}}, {"options": {"env": 2}},
    {"options": None}, {"options": {"env": 1, "more": 1}},
])  # fmt: skip
def test_secrets_not_declared(bench: Bench, guest: Guest, change: dict[str, Any]) -> None:
    """Guards against secrets that the step's @secrets does not name."""
    answer = guest.ask(verb="secret", **{**VERBS["secret"], **change})
    assert refused(bench, answer)
    assert "@secrets" in answer["error"]
    assert bench.services.calls == []


def test_the_role_is_the_launchers(bench: Bench, guest: Guest) -> None:
    """Guards against a guest that chooses whose credentials are used."""
    assert "values" in guest.ask(verb="secret", **{**VERBS["secret"], "role": "arn:aws:iam::1:role/admin"})
    assert bench.services.calls == [("secret", SECRET)]


# --- life -------------------------------------------------------------------------------------


def test_only_the_first_process_says_how_it_ended(bench: Bench) -> None:
    """Guards against a step that takes its guest's place, and with it the launcher's signals."""
    with bench.guest() as first, bench.guest() as second:
        assert first.ask(verb="started") == {}
        assert refused(bench, second.ask(verb="started"))
        second.raw(encode_frame({"verb": "ended", "signal": 9}))
        assert refused(bench, second.answer())
        assert bench.relay.lifecycle.signal(15)
        assert first.answer() == {"signal": 15}
    assert [word for word in bench.observer.said if word != "starting"] == ["started"]


def test_a_signal_without_a_guest(bench: Bench, guest: Guest) -> None:
    """Guards against waiting for a guest that is not there, or not any more."""
    assert bench.relay.lifecycle.signal(15) is False
    guest.ask(verb="started")
    guest.close()
    bench.relay.lifecycle.heard_out(10)
    settle(lambda: bench.relay.lifecycle.signal(15) is False)


@pytest.mark.parametrize("fields", [
    {"signal": "9"}, {"signal": -1}, {"signal": 1 << 40}, {"signal": True}, {"peak_memory": "x"},
    {"cpu_time": [1]},
])  # fmt: skip
def test_an_end_of_the_wrong_kind(bench: Bench, guest: Guest, fields: dict[str, Any]) -> None:
    """Guards against figures that are none."""
    guest.ask(verb="started")
    assert refused(bench, guest.ask(verb="ended", **fields))


def test_nothing_is_served_after_the_end(bench: Bench, guest: Guest) -> None:
    """Guards against what a guest sent before it died being carried out after the task has ended."""
    assert guest.ask(verb="heartbeat") == {}
    bench.relay.close()
    assert guest.is_cut()
    with bench.guest() as late:
        assert late.is_cut()
    assert ("rest", IDENTITY) in bench.services.calls
    settle(lambda: not bench.relay._connections)


def test_what_was_sent_ahead_is_not_heard_after_the_end(bench: Bench, guest: Guest) -> None:
    """Guards against requests that need no answer being carried out for a task that is over."""
    guest.ask(verb="started")
    reached, go_on = threading.Event(), threading.Event()
    heard: list[Any] = []

    def ended(*said: Any) -> None:
        heard.append(said)
        reached.set()
        go_on.wait(10)

    bench.observer.ended = ended  # type: ignore[method-assign]
    guest.raw(encode_frame({"verb": "ended"}) * 50)
    assert reached.wait(10)
    bench.relay.close()
    go_on.set()
    bench.relay.lifecycle.heard_out(10)
    assert len(heard) == 1


def test_connections_over_the_limit(tmp_path: Path) -> None:
    """Guards against a guest that takes all descriptors and threads of the launcher."""
    bench = Bench(tmp_path, limits=Limits(connections=3))
    guests = [bench.guest() for _ in range(3)]
    for _ in range(200):
        with bench.guest() as over:
            assert over.is_cut()
    assert threading.active_count() < 20
    assert 1 <= len(bench.observer.refusals) <= 200
    assert "limit of 3" in bench.observer.refusals[0]
    guests.pop().close()
    settle(lambda: len(bench.relay._connections) == 2)
    with bench.guest() as after:
        assert after.ask(verb="heartbeat") == {}
    for one in guests:
        assert one.ask(verb="heartbeat") == {}
        one.close()


def test_whoever_accepts_never_waits(tmp_path: Path) -> None:
    """Guards against a guest that stops the whole run by having refusals wait for a reader."""
    bench = Bench(tmp_path, limits=Limits(connections=0))
    stuck = threading.Event()
    bench.observer.refused = lambda _reason: stuck.wait(10)  # type: ignore[assignment, method-assign, return-value]
    for _ in range(20):
        bench.guest().close()
    assert len([thread for thread in threading.enumerate() if "_report_overflow" in thread.name]) == 1
    stuck.set()


def test_large_headers_do_not_add_up(bench: Bench) -> None:
    """Guards against many connections that each have the launcher hold most of a large header."""
    guests = [bench.guest() for _ in range(40)]
    most_of_one = LENGTHS.pack(MAX_HEADER, 0) + b" " * (MAX_HEADER - 1)

    def send(one: Guest) -> None:
        with contextlib.suppress(OSError):  # it is cut off while it waits
            one.socket.sendall(most_of_one)

    before = resident()
    threads = [threading.Thread(target=send, args=(one,)) for one in guests]
    for thread in threads:
        thread.start()
    # One of them gets through; what the others hold is in the kernel.
    settle(lambda: not all(thread.is_alive() for thread in threads))
    peak = before
    for _ in range(40):
        peak = max(peak, resident())
        time.sleep(0.005)
    with bench.guest() as small:
        assert small.ask(verb="heartbeat") == {}
    bench.relay.close()
    for thread in threads:
        thread.join()
    for one in guests:
        one.close()
    assert peak - before < 80 << 20


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_directory_listed_many_times(bench: Bench, guest: Guest) -> None:
    """Guards against a small request with an answer of any size."""
    for number in range(100):
        bench.put(f"{OWN}/1.{number}", b"")
    answer = guest.ask(verb="list_content", store=STORE, paths=[OWN] * 10_000)
    assert len(answer["entries"]) == 100


def test_an_answer_over_the_limit(bench: Bench, guest: Guest) -> None:
    """Guards against an answer that is too large ending the connection without a word."""
    bench.services.objects = ["x" * 100_000] * 100
    answer = guest.ask(verb="metadata_object", **VERBS["metadata_object"])
    assert refused(bench, answer)
    assert "too large" in answer["error"]
    bench.storage.list_content = lambda paths: [("x", True)] * (MAX_ENTRIES + 1)  # type: ignore[method-assign]
    assert refused(bench, guest.ask(verb="list_content", store=STORE, paths=[OWN]))


@pytest.mark.parametrize("objects", [{1, 2}, b"bytes", object(), float("nan")])
def test_an_answer_that_is_no_json(bench: Bench, guest: Guest, objects: Any) -> None:
    """Guards against a provider's odd answer ending the relay's thread."""
    bench.services.objects = objects
    answer = guest.ask(verb="metadata_object", **VERBS["metadata_object"])
    assert "error" in answer or objects != objects
    assert guest.ask(verb="heartbeat") == {}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyError("x"), RuntimeError("\ud800"), MemoryError()]
)
def test_a_storage_that_fails(bench: Bench, guest: Guest, error: Exception) -> None:
    """Guards against a provider's failure ending the relay, or passing as a refusal."""
    bench.services.breaking = error
    for verb in ("is_file", "info_file", "size_file", "list_content", "load"):
        assert type(error).__name__ in guest.ask(verb=verb, **VERBS[verb])["error"]
    assert type(error).__name__ in guest.save(f"{OWN}/1.x", b"x" * 3_000_000)["error"]
    assert len(bench.observer.failures) == 6
    assert bench.observer.refusals == []
    bench.services.breaking = None
    assert guest.save(f"{OWN}/1.x", b"x") == {}


def test_a_storage_that_fails_in_the_middle(bench: Bench, guest: Guest) -> None:
    """Guards against a failure while an object is read being taken for the object's end."""
    bench.put(f"{INPUT}/0.x", b"x" * 100)
    path = bench.storage.root / INPUT / "0.x"
    path.unlink()
    path.mkdir()
    bench.storage.load_bytes = lambda keys: _Loaded(str(path))  # type: ignore[method-assign, assignment]
    assert "IsADirectoryError" in guest.ask(verb="load", store=STORE, path=f"{INPUT}/0.x")["error"]
    assert guest.ask(verb="heartbeat") == {}


class _Loaded:
    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Iterator[tuple[str, str, None]]:
        return iter([("x", self._path, None)])

    def __exit__(self, *_: object) -> None: ...


def test_vouching_by_reading(tmp_path: Path) -> None:
    """Guards against an input's results not being believed, and against other files being."""
    from metaflow_extensions.sandbox.relay.vetting import ArtifactPolicy

    bench = Bench(tmp_path, artifacts=ArtifactPolicy("vetted"))
    evil = bomb(tmp_path / "canary")
    bench.put(f"{INPUT}/0.data.json", document({"model": sha1(evil)}))
    with bench.guest() as one:
        save_blob(one, evil)
        assert refused(bench, one.save(f"{OWN}/1.data.json", document({"model": sha1(evil)})))
        one.load(f"{INPUT}/0.data.json")
        assert one.save(f"{OWN}/1.data.json", document({"model": sha1(evil)})) == {}


def test_included_files(bench: Bench, guest: Guest) -> None:
    """Guards against an included file that does not arrive whole."""
    bench.services.included.write_bytes(b"i" * 3_000_000)
    assert guest.ask(verb="include", type="local", url="u") == {"found": True, "meta": None}
    assert b"".join(read_stream(guest.reader)) == b"i" * 3_000_000
    assert bench.services.calls == [("include", "local", "u")]


def test_kinds_are_all_known() -> None:
    """Guards against a new kind of path without a rule in the intake."""
    assert {kind.name for kind in Kind} == {"BLOB", "OWN", "CARD", "INPUT"}


def test_frames_are_what_they_were() -> None:
    """Guards against a change of the frames' form, which a guest of another version speaks."""
    assert encode_frame({"verb": "x"}, b"yz") == struct.pack("!II", 12, 2) + b'{"verb":"x"}yz'
    assert base64.b16encode(LENGTHS.pack(1, 2)) == b"0000000100000002"


def test_credentials_of_the_datastore(bench: Bench) -> None:
    """Guards the launcher's keys: only a step in direct mode is given any."""
    with bench.guest() as guest:
        assert "refused" in guest.ask(verb="s3_credentials")["error"]
        assert not bench.services.calls
        bench.relay.direct = True
        assert guest.ask(verb="s3_credentials")["credentials"]["SecretAccessKey"] == "hunter2"
        assert bench.services.calls == [("s3", IDENTITY)]
