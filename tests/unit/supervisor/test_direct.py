"""What the launcher makes of what a task in direct mode has left in the datastore."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.intake import Intake
from metaflow_extensions.sandbox.relay.services import Limits
from metaflow_extensions.sandbox.relay.vetting import ArtifactPolicy
from metaflow_extensions.sandbox.supervisor import direct as direct_module
from metaflow_extensions.sandbox.supervisor.direct import DirectTask, configuration
from metaflow_extensions.sandbox.supervisor.protocol import DirectSettings, TaskSettings

from ..relay.parts import (
    IDENTITY,
    OWN,
    PACKED,
    STORE,
    Observer,
    blob_path,
    bomb,
    document,
    settle,
    sha1,
    short_directory,
)
from .parts import Stage

RESULTS, DONE, RECORDS = f"{OWN}/1.data.json", f"{OWN}/1.DONE.lock", f"{OWN}/1.sandbox_records.tgz"
DRAFT, DRAFT_DONE = f"{OWN}/1.sandbox_data.json", f"{OWN}/1.sandbox_DONE.lock"


class Bench:
    """A task and the datastore that it writes to."""

    def __init__(self, stage: Stage, place: Path) -> None:
        self.services = stage.services
        self.storage = stage.services.storages[STORE]
        self.observer = Observer()
        settings = DirectSettings("/libraries", "", {"region": "here"})
        task = TaskSettings(IDENTITY, "open", SandboxSpec(), {}, [], {}, direct=settings)
        intake = Intake("Flow", place, Limits(), ArtifactPolicy(), direct=True)
        self.task = DirectTask(stage.context, task, self.observer, intake, {})

    def put(self, path: str, content: bytes, metadata: dict[str, Any] | None = None) -> None:
        self.storage.save_bytes(iter([(path, (io.BytesIO(content), metadata))]), overwrite=True)

    def leave(self, *, done: bool = True, **artifacts: bytes) -> None:
        """What Metaflow writes inside at a step's end."""
        for content in artifacts.values():
            self.put(blob_path(content), gzip.compress(content), PACKED)
        self.put(DRAFT, document({name: sha1(content) for name, content in artifacts.items()}))
        if done:
            self.put(DRAFT_DONE, b"")

    def record(self, field: str, value: str = "1") -> None:
        """The archive that the guest uploads."""
        packed = io.BytesIO()
        entry = {"field_name": field, "value": value, "type": field, "tags": [], "ts_epoch": 1}
        content = json.dumps(entry).encode()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            member = tarfile.TarInfo(f"{OWN}/_meta/sysmeta_{field}_1.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        self.put(RECORDS, packed.getvalue())

    def stored(self, path: str) -> bytes | None:
        file = self.storage.root / path
        return file.read_bytes() if file.exists() else None

    def registered(self) -> list[str]:
        return [entry[0] for call in self.services.calls if call[0] == "metadata" for entry in call[2]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(direct_module, "PAUSE", 0.01)
    monkeypatch.setattr(direct_module, "PULL_INTERVAL", 0.01)
    with short_directory() as place:
        stage = Stage(place)
        yield Bench(stage, place)
        stage.close()


def test_honest_results_are_published(bench: Bench) -> None:
    """Guards an honest task: what it left is what every reader of Metaflow finds."""
    bench.leave(_task_ok=pickle.dumps(True, 4), mine=pickle.dumps([1], 4))
    bench.record("attempt-done")
    bench.task.settle(cancelled=False)
    assert json.loads(bench.stored(RESULTS) or b"")["objects"].keys() == {"_task_ok", "mine"}
    assert bench.stored(DONE) == b""
    assert bench.observer.said == ["finished"]
    assert bench.registered() == ["attempt-done"]
    assert bench.observer.refusals == []


@pytest.mark.parametrize("name", ["_transition", "_task_ok", "_foreach_stack", "_success"])
def test_hostile_results_are_not(bench: Bench, tmp_path: Path, name: str) -> None:
    """Guards the scheduler, and a resume, against unpickling what a step made to run there."""
    bench.leave(**{name: bomb(tmp_path / "canary")})
    bench.record("attempt-done")
    bench.task.settle(cancelled=False)
    assert bench.stored(RESULTS) is None
    assert bench.stored(DONE) is None
    assert bench.observer.said == []
    assert bench.registered() == []
    assert name in bench.observer.refusals[0]
    assert not (tmp_path / "canary").exists()


def test_other_content_under_an_honest_name(bench: Bench, tmp_path: Path) -> None:
    """Guards against a blob that the step replaced in the datastore, where no relay looks at it."""
    bench.leave(_task_ok=pickle.dumps(True, 4))
    bench.put(blob_path(pickle.dumps(True, 4)), gzip.compress(bomb(tmp_path / "canary")), PACKED)
    bench.task.settle(cancelled=False)
    assert bench.stored(RESULTS) is None
    assert "hashes to another key" in bench.observer.refusals[0]


@pytest.mark.parametrize("content", [b"", b"{}", b"no json", b"[" * 100_000, b'{"a": NaN}', bytes(17 << 20)])
def test_lists_of_artifacts_that_are_none(bench: Bench, content: bytes) -> None:
    """Guards the scheduler against a list that it would stumble over."""
    bench.put(DRAFT, content)
    bench.put(DRAFT_DONE, b"")
    bench.task.settle(cancelled=False)
    assert bench.stored(RESULTS) is None
    assert bench.stored(DONE) is None
    assert len(bench.observer.refusals) == 1


def test_who_marks_itself_done_has_nothing(bench: Bench, tmp_path: Path) -> None:
    """Guards a resume, which would unpickle what a step marked as done without the launcher."""
    hostile = bomb(tmp_path / "canary")
    bench.put(blob_path(hostile), gzip.compress(hostile), PACKED)
    bench.put(RESULTS, document({"_task_ok": sha1(hostile)}))
    bench.put(DONE, b"")
    bench.task.settle(cancelled=False)
    assert json.loads(bench.stored(RESULTS) or b"")["objects"] == {}
    assert bench.observer.said == []
    assert "marked as done itself" in bench.observer.refusals[0]


def test_a_step_that_did_not_come_to_its_end(bench: Bench) -> None:
    """Guards what a killed step said about itself; it is not done."""
    bench.record("attempt")
    bench.task.settle(cancelled=False)
    assert bench.registered() == ["attempt"]
    assert bench.stored(DONE) is None
    assert bench.observer.said == []


def test_a_cancelled_step_is_listened_to(bench: Bench) -> None:
    """Guards a cancelled task, whose results nobody waits for."""
    bench.leave(_task_ok=pickle.dumps(True, 4))
    bench.record("attempt")
    bench.task.settle(cancelled=True)
    assert bench.registered() == ["attempt"]
    assert bench.stored(RESULTS) is None


def test_records_of_a_running_step(bench: Bench) -> None:
    """Guards against metadata that is seen only once a step of hours is over."""
    bench.task.watch()
    bench.record("early")
    settle(lambda: bench.registered() == ["early"])
    bench.task.settle(cancelled=False)


def test_a_provider_that_stays_away(bench: Bench) -> None:
    """Guards against a task that counts as successful and that the Client can't find."""
    bench.leave(_task_ok=pickle.dumps(True, 4))
    bench.record("attempt")
    bench.services.storages[STORE].save_bytes(iter([]))
    bench.services.register_metadata = refuse  # type: ignore[method-assign]
    with pytest.raises(RelayError, match="look at the metadata service"):
        bench.task.settle(cancelled=False)


def test_a_datastore_that_stays_away(bench: Bench) -> None:
    """Guards against a failure of the datastore's that is told as the sandbox's own."""
    bench.services.breaking = ConnectionError("no route")
    with pytest.raises(RelayError, match="cannot be read or published: ConnectionError: no route"):
        bench.task.settle(cancelled=False)


def test_metadata_that_did_not_arrive(bench: Bench) -> None:
    """Guards against a task that succeeds and that the Client takes for one that never ran."""
    bench.leave(_task_ok=pickle.dumps(True, 4))
    with pytest.raises(RelayError, match="has not arrived"):
        bench.task.settle(cancelled=False)


def refuse(*_: object) -> None:
    raise ConnectionError("nobody is there")


def test_files_for_the_step(bench: Bench, tmp_path: Path) -> None:
    """Guards credentials, which are in a private file, and the configuration, which has none."""
    files = bench.task.files(tmp_path, "/python")
    assert json.loads(files["s3.json"].read_text())["SecretAccessKey"] == "hunter2"
    text = files["aws.config"].read_text()
    assert "hunter2" not in text
    assert text.startswith("[default]\nregion = here\ncredential_process = ")


def test_configuration_is_read_by_botocore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards quotes and nested sections against a parser that sees something else."""
    from botocore.session import Session

    lines = {"region": "here", "s3": "\n    addressing_style = path"}
    (tmp_path / "config").write_text(configuration(lines, "/a b/python3"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    found = Session().get_scoped_config()
    assert found["s3"] == {"addressing_style": "path"}
    assert found["region"] == "here"
    assert found["credential_process"].startswith('"/a b/python3" -c "')
