"""boto3 for sandboxes that do not have it: the launcher's own, without what S3 does not need.

A directory with the modules in one file that Python imports from, and what botocore reads as files:

    modules.zip  data/s3/…  data/endpoints.json  cacert.pem

Pure Python, a few MiB; made once and kept in the user's cache, under a name that its content gives.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import BackendUnavailable

MODULES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")
KEPT = (".json", ".json.gz", ".pem")
SOURCES = (".py", f".{sys.implementation.cache_tag}.pyc")
# Of the descriptions of 400 services, those that S3 and its sessions need.
SERVICES = ("s3", "sts")
DESCRIBED = ("boto3", "botocore")
ZIP = "modules.zip"
BYTECODE = re.compile("/__pycache__/")
FORMAT = "2"  # another one when what is kept changes


def bundle() -> Path:
    """The directory with the modules. Raises BackendUnavailable when there is no boto3 or no room for it."""
    files = dict(sources())
    name = hashlib.sha256(FORMAT.encode())
    for target, source in sorted(files.items()):
        facts = source.stat()
        name.update(f"{target}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    try:
        cache = cache_directory()
        made = cache / f"s3-{name.hexdigest()[:16]}"
        if not made.is_dir():
            make(made, files)
    except OSError as error:
        raise BackendUnavailable(
            f"boto3 cannot be copied for the sandboxes: {error}; set XDG_CACHE_HOME to a directory with some "
            "free space"
        ) from error
    return made


def sources() -> Iterator[tuple[str, Path]]:
    """(path in the bundle, file) of everything that is kept; modules are below modules.zip."""
    for name in MODULES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise BackendUnavailable(f"datastore_access='direct' needs {name} here: pip install boto3")
        origin = Path(found.origin)
        if not found.submodule_search_locations:
            yield f"{ZIP}/{origin.name}", origin
            continue
        for folder, folders, files in os.walk(origin.parent):
            place = Path(folder).relative_to(origin.parent)
            if place == Path("data"):
                folders[:] = [name for name in folders if name in SERVICES]
            for file in files:
                source = Path(folder, file)
                if file.endswith(SOURCES):
                    yield f"{ZIP}/{name}/{place / file}", source
                elif name in DESCRIBED and file.endswith(KEPT):
                    # boto3's and botocore's in one place, which AWS_DATA_PATH names.
                    yield str(place / file), source


def make(target: Path, files: dict[str, Path]) -> None:
    """Copy the files; another process may do the same at the same time."""
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        # Not compressed: it takes longer to inflate than to read.
        with zipfile.ZipFile(draft / ZIP, "w") as modules:
            for name, source in sorted(files.items()):
                place, _, module = name.partition("/")
                if place == ZIP:
                    modules.write(source, legacy(module))
                else:
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, draft / name)
        for path in [draft, *draft.rglob("*")]:
            # Read by whoever a backend runs the step as.
            path.chmod(0o755 if path.is_dir() else 0o644)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        if draft.exists():
            shutil.rmtree(draft)


def legacy(module: str) -> str:
    """Where an importer of zip files looks for bytecode: beside its source."""
    return BYTECODE.sub("/", module).replace(SOURCES[1], ".pyc")


def cache_directory() -> Path:
    """The private directory of this user, made when absent. Raises OSError when it is not private."""
    given = os.environ.get("XDG_CACHE_HOME")
    home = os.environ.get("HOME")
    if given or home:
        place = Path(given or Path(str(home), ".cache"), "metaflow-sandbox")
    else:
        place = Path(tempfile.gettempdir(), f"metaflow-sandbox-cache-{os.getuid()}")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = place.lstat()
    # Whoever can write here chooses what sandboxes run.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{place} is not a directory that only this user can write to")
    return place
