"""The archive of records that a sandbox made: what is taken from it, and what a hostile one cannot do."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay import records_archive
from metaflow_extensions.sandbox.relay.records_archive import read_records

from .parts import IDENTITY

PLACE = "Flow/12/train/7/_meta"


def entry(field: str, value: Any = "x", moment: int = 1, **more: Any) -> dict[str, Any]:
    return {"field_name": field, "value": value, "type": field, "tags": [], "ts_epoch": moment, **more}


def artifact(name: str, **more: Any) -> dict[str, Any]:
    facts = {
        "name": name,
        "ds_type": "s3",
        "location": ":root:s3://b/m",
        "content_type": "pickle",
        "sha": "1",
    }
    return {**facts, **more}


def member(name: str, content: bytes = b"{}", kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def packed(place: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return written(place, gzip.compress(made.getvalue()))


def written(place: Path, content: bytes) -> Path:
    (place / "records.tgz").write_bytes(content)
    return place / "records.tgz"


def test_honest_records(tmp_path: Path) -> None:
    """Guards against entries that are lost, or told in another order than they were written in."""
    late, early = entry("late", moment=9), entry("early", 17, moment=3)
    archive = packed(
        tmp_path,
        [
            member(f"{PLACE}/sysmeta_late_9-1.json", json.dumps(late).encode()),
            member(f"{PLACE}/sysmeta_early_3-1.json", json.dumps(early).encode()),
            member(f"{PLACE}/1_artifact_x.json", json.dumps(artifact("x")).encode()),
        ],
    )
    found = read_records(archive, IDENTITY)
    assert list(found.entries.values()) == [("early", "17", "early", []), ("late", "x", "late", [])]
    assert found.artifacts == [
        {"name": "x", "ds_type": "s3", "ds_root": "s3://b/m", "url": None, "type": "pickle", "sha": "1"}
    ]
    assert found.refused == []


@pytest.mark.parametrize(
    "name",
    [
        "Flow/12/train/8/_meta/sysmeta_a_1.json",
        "Flow/13/train/7/_meta/sysmeta_a_1.json",
        "Other/12/train/7/_meta/sysmeta_a_1.json",
        f"{PLACE}/../../8/_meta/sysmeta_a_1.json",
        f"/{PLACE}/sysmeta_a_1.json",
        f"./{PLACE}/sysmeta_a_1.json",
        f"{PLACE}/_self.json",
        f"{PLACE}/deeper/sysmeta_a_1.json",
        f"{PLACE}/sysmeta_a_1.json/../../_self.json",
        "Flow/12/_meta/_self.json",
        f"{PLACE}/sysmeta_{'a' * 300}.json",
    ],
)
def test_other_places_are_refused(tmp_path: Path, name: str) -> None:
    """Guards other tasks' records, the run's own, and paths that lead elsewhere."""
    found = read_records(packed(tmp_path, [member(name, json.dumps(entry("a")).encode())]), IDENTITY)
    assert not found.entries
    assert not found.artifacts
    assert len(found.refused) == 1


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
)
def test_only_plain_files_count(tmp_path: Path, kind: bytes) -> None:
    """Guards against links out of the archive, devices and pipes."""
    archive = packed(tmp_path, [member(f"{PLACE}/sysmeta_a_1.json", b"", kind, "/etc/passwd")])
    found = read_records(archive, IDENTITY)
    assert not found.entries
    assert len(found.refused) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["records.tgz"]


def test_artifacts_of_another_attempt(tmp_path: Path) -> None:
    """Guards an earlier attempt's artifacts."""
    archive = packed(tmp_path, [member(f"{PLACE}/0_artifact_x.json", json.dumps(artifact("x")).encode())])
    assert read_records(archive, IDENTITY).artifacts == []


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b"[" * 100_000,
        b'{"field_name": 1, "value": "x", "type": "a", "tags": []}',
        b'{"field_name": "a", "value": "x", "type": "a", "tags": "abc"}',
        b'{"field_name": "a", "value": "x", "type": "a", "tags": [{}]}',
        b'{"field_name": "a", "value": "\\ud800", "type": "a", "tags": []}',
        b"\xff\xfe",
        b"",
    ],
)
def test_records_that_are_none(tmp_path: Path, content: bytes) -> None:
    """Guards the launcher against values of other types, text that cannot be stored, and deep nesting."""
    good = member(f"{PLACE}/sysmeta_good_1.json", json.dumps(entry("good")).encode())
    found = read_records(packed(tmp_path, [member(f"{PLACE}/sysmeta_a_1.json", content), good]), IDENTITY)
    assert [each[0] for each in found.entries.values()] == ["good"]
    assert len(found.refused) == 1


def test_artifacts_elsewhere_are_refused(tmp_path: Path) -> None:
    """Guards the Client against an artifact that is read from a place of the step's choice."""
    bad = artifact("x", location="s3://elsewhere/x")
    found = read_records(
        packed(tmp_path, [member(f"{PLACE}/1_artifact_x.json", json.dumps(bad).encode())]), IDENTITY
    )
    assert found.artifacts == []
    assert "elsewhere" in found.refused[0]


def test_a_large_record_is_left_out(tmp_path: Path) -> None:
    """Guards against one record that takes the launcher's memory."""
    large = json.dumps(entry("a", "x" * records_archive.MAX_RECORD)).encode()
    found = read_records(packed(tmp_path, [member(f"{PLACE}/sysmeta_a_1.json", large)]), IDENTITY)
    assert not found.entries
    assert "over 1 MiB" in found.refused[0]


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an archive that is small, and endless once inflated."""
    monkeypatch.setattr(records_archive, "MAX_INFLATED", 1 << 20)
    with pytest.raises(RelayError, match="once inflated"):
        read_records(packed(tmp_path, [member("elsewhere", bytes(64 << 20))]), IDENTITY)
    huge = tarfile.TarInfo("pax")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 33
    with pytest.raises(RelayError):
        read_records(written(tmp_path, gzip.compress(huge.tobuf() + bytes(2 << 20))), IDENTITY)


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against records without end."""
    monkeypatch.setattr(records_archive, "MAX_MEMBERS", 3)
    with pytest.raises(RelayError, match="over 3"):
        read_records(packed(tmp_path, [member(f"{PLACE}/{n}") for n in range(5)]), IDENTITY)


def test_names_without_end(tmp_path: Path) -> None:
    """Guards against headers that refer to the next one, over and over."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1
    block = name.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    with pytest.raises(RelayError):
        read_records(written(tmp_path, gzip.compress(block * 5000)), IDENTITY)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", gzip.compress(b"no tar" * 1000, mtime=0), b"\x1f\x8b\x08"]
)
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    """Guards against a traceback in place of a reason; an empty one holds nothing."""
    try:
        found = read_records(written(tmp_path, content), IDENTITY)
    except RelayError as error:
        assert "cannot be read" in str(error)
    else:
        assert not found.entries


def test_half_an_archive_says_so_or_gives_what_is_there(tmp_path: Path) -> None:
    """Guards against a partial upload that ends the task with a traceback."""
    whole = packed(
        tmp_path,
        [member(f"{PLACE}/sysmeta_a_{n}.json", json.dumps(entry("a", moment=n)).encode()) for n in range(50)],
    ).read_bytes()
    with pytest.raises(RelayError):
        read_records(written(tmp_path, whole[: len(whole) // 2]), IDENTITY)
