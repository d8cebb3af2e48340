"""What an honest flow of every kind of step stores is accepted by the relay's checks, all of it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.relay.blobs import BlobCheck
from metaflow_extensions.sandbox.relay.vetting import (
    SCHEDULER_ARTIFACTS,
    ArtifactPolicy,
    canonical_json,
    check_data_json,
    scheduler_artifacts,
    vet_artifact,
    vet_scheduler_artifact,
)

FLOW = Path(__file__).parent / "flows" / "honest_flow.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local datastore of one finished run of the flow."""
    home = tmp_path_factory.mktemp("honest")
    python = str(Path(sys.executable).parent)
    env = {
        "PATH": python + os.pathsep + os.environ["PATH"],  # @parallel starts its workers by the name "python"
        "HOME": str(home),
        "METAFLOW_HOME": str(home / "config"),
        "METAFLOW_USER": "tester",
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
    }
    done = subprocess.run(
        [sys.executable, str(FLOW), "run"], cwd=home, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return home / ".metaflow" / "HonestFlow"


def documents(store: Path) -> list[bytes]:
    return [path.read_bytes() for path in store.glob("*/*/*/*.data.json")]


def test_artifacts_of_every_kind_of_step_pass(store: Path) -> None:
    """Guards against refusing honest runs: foreach, switch, loop, @parallel, unbounded foreach, @catch."""
    met: set[str] = set()
    policy = ArtifactPolicy("vetted")
    for raw in documents(store):
        document = check_data_json(raw)
        objects, info = document["objects"], document["info"]

        def load(name: str, _max_size: int, objects: dict[str, str] = objects) -> bytes:
            return gzip.decompress((store / "data" / objects[name][:2] / objects[name]).read_bytes())

        names = scheduler_artifacts(objects, load)
        met |= names
        for name in names:
            vet_scheduler_artifact(name, info[name]["encoding"], load(name, 0))
        for name in objects:
            vet_artifact(name, info[name]["encoding"], load(name, 0), policy)
    # Those two are the targets of _foreach_var; _success and the rest are the fixed list.
    assert met == SCHEDULER_ARTIFACTS | {"things", "_parallel_ubf_iter"}


def test_documents_keep_their_bytes(store: Path) -> None:
    """Guards against a rewrite that changes what Metaflow wrote."""
    raws = documents(store)
    assert len(raws) > 20
    for raw in raws:
        assert canonical_json(raw) == raw
        assert json.dumps(check_data_json(raw)).encode() == raw


def test_blobs_pass(store: Path) -> None:
    """Guards against refusing gzip files as Metaflow writes them, and raw ones."""
    blobs = [path for path in store.glob("data/*/*") if not path.name.endswith("_meta")]
    assert len(blobs) > 20
    for path in blobs:
        meta = json.loads(path.with_name(path.name + "_meta").read_bytes())
        check = BlobCheck(path.name, meta["cas_raw"], 1 << 20)
        check.feed(path.read_bytes())
        check.finish()
