"""The guest's side of the relay, against a real relay and against one that misbehaves."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.guest.client import ADDRESS_VARIABLE, PIPELINED, RelayClient, RelayRefused
from metaflow_extensions.sandbox.guest.frames import LENGTHS, encode_frame

from ..relay.parts import INPUT, OWN, PACKED, STORE, Bench, blob_path, listening, short_directory


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.relay.close()


@pytest.fixture
def address(bench: Bench) -> Iterator[str]:
    """Where the relay listens."""
    with listening(bench.relay) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[RelayClient]:
    made = RelayClient(address)
    yield made
    with contextlib.suppress(BrokenPipeError):  # where a test has had the relay closed
        made.connection().close()


def test_calls(bench: Bench, client: RelayClient) -> None:
    """Guards against answers that do not belong to their requests."""
    for number in range(20):
        bench.put(f"{INPUT}/0.{number}", b"x" * number)
    for number in range(20):
        assert client.call("size_file", store=STORE, path=f"{INPUT}/0.{number}") == {"size": number}


def test_refusals(client: RelayClient) -> None:
    """Guards against a refusal that is no exception, or that ends the connection."""
    with pytest.raises(RelayRefused, match=r"refused: read of 'Other/x'"):
        client.call("size_file", store=STORE, path="Other/x")
    assert client.call("heartbeat") == {}


def test_many_saves(bench: Bench, client: RelayClient) -> None:
    """Guards against requests sent ahead that wait for each other for ever."""
    contents = [b"%d" % number * 5000 for number in range(4 * PIPELINED)]
    client.save(STORE, ((blob_path(one), io.BytesIO(gzip.compress(one)), PACKED) for one in contents), True)
    assert [gzip.decompress(bench.stored(blob_path(one)) or b"") for one in contents] == contents


def test_requests_between_saves(bench: Bench, client: RelayClient) -> None:
    """Guards against answers mixed up where the objects come from an iterator that asks, too."""

    def items() -> Iterator[tuple[str, io.BytesIO, dict[str, Any]]]:
        for number in range(100):
            content = b"%d" % number
            assert client.call("is_file", store=STORE, paths=[blob_path(content)]) == {"exists": [False]}
            yield blob_path(content), io.BytesIO(gzip.compress(content)), PACKED

    client.save(STORE, items(), True)
    assert bench.stored(blob_path(b"99")) is not None


def test_one_refused_save_among_many(bench: Bench, client: RelayClient) -> None:
    """Guards against a refusal that is lost, or that is told twice."""
    paths = [f"{OWN}/1.{number}" for number in range(100)]
    paths[30] = "Flow/13/train/7/1.x"
    with pytest.raises(RelayRefused, match="13/train/7"):
        client.save(STORE, ((path, io.BytesIO(b"x"), None) for path in paths), True)
    assert bench.stored(paths[29]) == b"x"
    assert bench.stored(paths[99]) == b"x"
    client.save(STORE, [(f"{OWN}/1.y", io.BytesIO(b"y"), None)], True)


def test_what_is_posted_is_done_in_order(bench: Bench, client: RelayClient) -> None:
    """Guards against records that are lost, or answers that do not belong to their requests."""
    bench.put(f"{INPUT}/0.x", b"xyz")
    for number in range(3 * PIPELINED):
        client.post("register_metadata", items=[entry(str(number))])
        assert number % 50 or client.call("size_file", store=STORE, path=f"{INPUT}/0.x") == {"size": 3}
    assert client.load_all(STORE, [f"{INPUT}/0.x"]) == [(True, None, b"xyz")]
    client.settle()
    registered = [call[2][0][1] for call in bench.services.calls if call[0] == "metadata"]
    assert registered == [str(number) for number in range(3 * PIPELINED)]


@pytest.mark.parametrize("following", ["settle", "save"])
def test_a_refused_post_is_raised_by_what_follows(client: RelayClient, following: str) -> None:
    """Guards against results that are handed in although a record was refused."""
    client.post("register_metadata", items=[{**entry("x"), "tags": 7}])
    assert client.call("heartbeat") == {}
    with pytest.raises(RelayRefused, match="tags"):
        if following == "settle":
            client.settle()
        else:
            client.save(STORE, [(f"{OWN}/1.y", io.BytesIO(b"y"), None)], True)
    client.settle()


def entry(value: str) -> dict[str, Any]:
    """One of a task's records."""
    return {"field": "a", "value": value, "type": "c", "tags": []}


def test_loads(bench: Bench, client: RelayClient) -> None:
    """Guards against objects that come without their metadata, or are not missed."""
    content = os.urandom(3_000_000)
    bench.put(f"{INPUT}/0.x", content, {"a": 1})
    found, metadata, chunks, _ = client.load(STORE, f"{INPUT}/0.x")
    assert (found, metadata, b"".join(chunks)) == (True, {"a": 1}, content)
    found, metadata, chunks, _ = client.load(STORE, f"{INPUT}/0.y")
    assert (found, metadata, list(chunks)) == (False, None, [])
    bench.services.included.write_bytes(b"included")
    found, _, chunks, _ = client.include("local", "u")
    assert (found, b"".join(chunks)) == (True, b"included")


def test_each_thread_has_its_connection(bench: Bench, client: RelayClient) -> None:
    """Guards against threads that read each other's answers."""
    bench.put(f"{INPUT}/0.x", os.urandom(2_000_000))
    expected = bench.stored(f"{INPUT}/0.x")
    wrong: list[bytes] = []

    def load() -> None:
        for _ in range(5):
            data = b"".join(client.load(STORE, f"{INPUT}/0.x").chunks)
            if data != expected:
                wrong.append(data)
        client.connection().close()

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_after_a_fork(client: RelayClient) -> None:
    """Guards against a forked child that speaks on its parent's connection."""
    parents = client.connection()
    pid = os.fork()
    if pid == 0:
        try:
            client.call("heartbeat")
            os._exit(0 if client.connection() is not parents else 1)
        except BaseException:  # noqa: BLE001 -- a test's child must not go on as the test
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.connection() is parents
    assert client.call("heartbeat") == {}


def test_no_relay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against an unclear failure outside of a sandbox, and for an address from a later version."""
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    with pytest.raises(RelayRefused, match="in no sandbox"):
        RelayClient().call("heartbeat")
    monkeypatch.setenv(ADDRESS_VARIABLE, "tcp:1.2.3.4:5")
    with pytest.raises(RelayRefused, match=r"METAFLOW_SANDBOX_RELAY=tcp:1\.2\.3\.4:5"):
        RelayClient().call("heartbeat")
    with pytest.raises(FileNotFoundError):
        RelayClient(f"unix:{tmp_path / 'none'}").call("heartbeat")


def test_a_relay_that_closes(bench: Bench, client: RelayClient) -> None:
    """Guards against a cancelled run that a step takes for an answer."""
    assert client.call("heartbeat") == {}
    bench.relay.close()
    with pytest.raises(RelayRefused, match="closed the relay"):
        client.call("heartbeat")
    with pytest.raises(RelayRefused, match="closed the relay"):
        client.save(STORE, [(f"{OWN}/1.x", io.BytesIO(b"x" * 5_000_000), None)], True)


@pytest.mark.parametrize("answer", [b"", b"\0" * 5, LENGTHS.pack(10, 0), encode_frame({"x": 1})[:-1]])
def test_a_relay_that_dies_in_the_middle(answer: bytes) -> None:
    """Guards against half an answer passing as one."""
    with short_directory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "relay"))
        listener.listen()

        def serve() -> None:
            connection = listener.accept()[0]
            connection.recv(100)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RelayRefused, match="closed the relay"):
            RelayClient(f"unix:{place / 'relay'}").call("heartbeat")
        thread.join()
