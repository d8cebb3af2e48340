"""Large content as a file of the sandbox: a real relay, a real guest's client, files of one directory."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.errors import SandboxLost, UnsupportedOption
from metaflow_extensions.sandbox.guest.client import RelayClient
from metaflow_extensions.sandbox.guest.large_files import LARGE, VARIABLE

from .parts import INPUT, PACKED, RAW, STORE, Bench, blob_path, listening, sha1

LARGE_ONE = os.urandom(LARGE + 1)
SMALL_ONE = b"small"
INCLUDED = {"kind": "local", "url": "local:///x"}


class Directory:
    """A provider's way to files inside, here those of this machine.

    ``fails`` keeps it from reading after half of a file, and from writing at all.
    """

    def __init__(self) -> None:
        self.fails = False
        self.read_from: list[str] = []
        self.put_to: list[str] = []

    def put(self, source: Path, target: PurePosixPath) -> None:
        if self.fails:
            raise UnsupportedOption("no space left there")
        self.put_to.append(str(target))
        Path(target).write_bytes(source.read_bytes())

    def read(self, source: PurePosixPath) -> Iterator[bytes]:
        content = Path(source).read_bytes()
        self.read_from.append(str(source))
        yield content[: len(content) // 2]
        if self.fails:
            raise SandboxLost("the connection broke off")
        yield content[len(content) // 2 :]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.relay.close()


@pytest.fixture
def files(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    """Those that the relay passes; afterwards the guest has removed all."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    monkeypatch.setenv(VARIABLE, "yes")
    passed = bench.relay.files = Directory()
    yield passed
    assert list(inside.iterdir()) == []


@pytest.fixture
def client(bench: Bench) -> Iterator[RelayClient]:
    with listening(bench.relay) as address:
        made = RelayClient(address)
        yield made
        made.connection().close()


def save(client: RelayClient, *contents: bytes) -> None:
    client.save(STORE, [(blob_path(content), io.BytesIO(content), RAW) for content in contents], False)


def loaded(client: RelayClient, path: str) -> bytes:
    """An object, wherever it comes from."""
    content = client.load(STORE, path)
    assert content.found
    if content.file is None:
        return b"".join(content.chunks)
    data = Path(content.file).read_bytes()
    Path(content.file).unlink()
    return data


def test_large_content_goes_as_a_file(bench: Bench, files: Directory, client: RelayClient) -> None:
    """Guards both directions: exact bytes, in the order of their requests, and nothing small as a file."""
    save(client, SMALL_ONE, LARGE_ONE, SMALL_ONE + b"!")
    assert [bench.stored(blob_path(each)) for each in (SMALL_ONE, LARGE_ONE)] == [SMALL_ONE, LARGE_ONE]
    assert bench.stored(blob_path(SMALL_ONE + b"!")) == SMALL_ONE + b"!"
    assert len(files.read_from) == 1
    assert [loaded(client, blob_path(each)) for each in (SMALL_ONE, LARGE_ONE)] == [SMALL_ONE, LARGE_ONE]
    assert len(files.put_to) == 1


def test_an_included_file(bench: Bench, files: Directory, client: RelayClient) -> None:
    """Guards models and data that a flow includes."""
    bench.services.included.write_bytes(LARGE_ONE)
    included = client.include(**INCLUDED)
    assert included.file is not None
    assert files.put_to == [included.file]
    assert Path(included.file).read_bytes() == LARGE_ONE
    Path(included.file).unlink()


def test_what_can_not_be_passed_goes_by_the_channel(
    bench: Bench, files: Directory, client: RelayClient
) -> None:
    """Guards artifacts against a connection that breaks off, and a sandbox without the space."""
    files.fails = True
    save(client, LARGE_ONE, SMALL_ONE)
    assert len(files.read_from) == 1
    assert bench.stored(blob_path(LARGE_ONE)) == LARGE_ONE
    assert loaded(client, blob_path(LARGE_ONE)) == LARGE_ONE
    assert bench.observer.refusals == []


def test_no_directory_for_files_inside(
    bench: Bench, files: Directory, client: RelayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a step that has removed its TMPDIR, or was started without one that can be written to."""
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/none")
    save(client, LARGE_ONE)
    assert files.read_from == []
    assert bench.stored(blob_path(LARGE_ONE)) == LARGE_ONE


def test_what_is_read_is_checked(bench: Bench, files: Directory, client: RelayClient) -> None:
    """Guards the datastore: a file's content is as hostile as a channel's."""
    path = blob_path(b"something else")
    with pytest.raises(Exception, match="refused"):
        client.save(STORE, [(path, io.BytesIO(LARGE_ONE), RAW)], False)
    with pytest.raises(Exception, match="refused"):
        client.save(STORE, [("Other/x", io.BytesIO(LARGE_ONE), None)], False)
    assert bench.stored(path) is None
    assert len(bench.observer.refusals) == 2
    # Of the second one nothing was read.
    assert len(files.read_from) == 1
    save(client, SMALL_ONE)


def test_packed_content(bench: Bench, files: Directory, client: RelayClient) -> None:
    """Guards artifacts as Metaflow packs them."""
    packed = gzip.compress(LARGE_ONE)
    client.save(STORE, [(blob_path(LARGE_ONE), io.BytesIO(packed), PACKED)], False)
    assert bench.stored(blob_path(LARGE_ONE)) == packed
    assert len(files.read_from) == 1


def test_what_a_guest_may_not_read_is_not_put(bench: Bench, files: Directory, client: RelayClient) -> None:
    """Guards against a request for a file that gets around the policy."""
    bench.put("Flow/13/train/7/1.data.json", LARGE_ONE)
    with pytest.raises(Exception, match="refused"):
        client.load(STORE, "Flow/13/train/7/1.data.json")
    assert files.put_to == []


def test_a_sandbox_without_such_files(bench: Bench) -> None:
    """Guards this machine's files against a guest that names one where no provider reads inside."""
    secret = blob_path(b"root")
    with bench.guest() as guest:
        answer = guest.ask(verb="save", store=STORE, path=secret, meta=RAW, file="/etc/passwd")
        assert "this sandbox passes none" in answer["error"]
        bench.put(f"{INPUT}/0.data.json", LARGE_ONE)
        target = Path(tempfile.gettempdir(), f"planted-{sha1(LARGE_ONE)}")
        answer = guest.ask(verb="load", store=STORE, path=f"{INPUT}/0.data.json", into=str(target))
        assert answer == {"found": True, "meta": None}
    assert not target.exists()


@pytest.mark.parametrize("name", ["", "relative", "/absent", "/tmp", "a\0b", "../../etc/passwd"])
def test_a_doubtful_name(bench: Bench, files: Directory, name: str) -> None:
    """Guards the relay against names that are no file's: it asks for the content, and goes on."""
    files.fails = True
    with bench.guest() as guest:
        answer = guest.ask(verb="save", store=STORE, path=blob_path(b"x"), meta=RAW, file=name)
        assert answer == {"again": True} or "error" in answer
        assert guest.save(blob_path(b"x"), b"x", RAW) == {}
