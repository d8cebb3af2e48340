"""boto3 for sandboxes that have none."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import BackendUnavailable
from metaflow_extensions.sandbox.plugins import s3_bundle
from metaflow_extensions.sandbox.plugins.s3_bundle import bundle

LIBRARIES = Path(s3_bundle.__file__).with_name("guest_providers") / "s3_libraries.py"
# As in a sandbox: without this interpreter's packages.
USE = """
import importlib.util
import os
import sys
os.environ["METAFLOW_SANDBOX_S3_LIBRARIES"] = sys.argv[1]
spec = importlib.util.spec_from_file_location("s3_libraries", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.make_importable()
module.make_importable()
import boto3
client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
print(client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"}))
boto3.client("sts", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
from boto3.s3.transfer import TransferConfig
print(os.path.relpath(boto3.__file__, sys.argv[1]), boto3.__loader__.__class__.__name__)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "metaflow-sandbox"


def test_it_is_enough_for_s3() -> None:
    """Guards against a module or a service's description that was left out."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", USE, str(bundle()), str(LIBRARIES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "X-Amz-" in done.stdout or "Signature=" in done.stdout
    assert done.stdout.splitlines()[-1] == "modules.zip/boto3/__init__.pyc zipimporter"


def test_it_is_pure_and_small() -> None:
    """Guards against compiled modules, which other machines cannot load, and hundreds of services."""
    made = bundle()
    assert {path.name for path in made.iterdir()} == {"modules.zip", "data", "cacert.pem"}
    assert {path.name for path in (made / "data").iterdir() if path.is_dir()} == {"s3", "sts"}
    with zipfile.ZipFile(made / "modules.zip") as modules:
        names = modules.namelist()
        sources = sum(each.file_size for each in modules.infolist() if each.filename.endswith(".py"))
    assert {Path(name).suffix for name in names} <= {".py", ".pyc"}
    assert {name for name in names if "__pycache__" in name} == set()
    assert sources < 8 << 20


def test_it_is_made_once(cache: Path) -> None:
    """Guards against a copy for each run."""
    first = bundle()
    made = first.stat().st_mtime_ns
    assert bundle() == first
    assert first.stat().st_mtime_ns == made
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_other_versions_have_another_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an old boto3 after an update."""
    first = bundle()
    monkeypatch.setattr(s3_bundle, "FORMAT", "of tomorrow")
    assert bundle() != first
    assert len(list(cache.iterdir())) == 2


def test_two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against two runs that start at the same time."""
    first = bundle()
    s3_bundle.make(first, dict(s3_bundle.sources()))
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_cache_of_others(cache: Path) -> None:
    """Guards against code for sandboxes from a directory that others can write to."""
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(BackendUnavailable, match="XDG_CACHE_HOME"):
        bundle()


def test_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback where the home directory is no directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    with pytest.raises(BackendUnavailable, match="XDG_CACHE_HOME"):
        bundle()


def test_no_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback where the launcher itself has none."""
    monkeypatch.setattr(s3_bundle, "MODULES", ("no_such_module_here",))
    with pytest.raises(BackendUnavailable, match="pip install boto3"):
        bundle()
