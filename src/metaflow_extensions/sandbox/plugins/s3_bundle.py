"""boto3 for sandboxes that do not have it: the launcher's own, without what S3 does not need.

Pure Python, a few MiB; made once and kept in the user's cache, under a name that its content gives.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import BackendUnavailable

MODULES = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")
KEPT = (".py", ".json", ".json.gz", ".pem")
BYTECODE = f".{sys.implementation.cache_tag}.pyc"
# Of the descriptions of 400 services, those that S3 and its sessions need.
SERVICES = ("s3", "sts")
FORMAT = "1"  # another one when what is kept changes


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
    """(path in the bundle, file) of everything that is kept."""
    for name in MODULES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise BackendUnavailable(f"datastore_access='direct' needs {name} here: pip install boto3")
        origin = Path(found.origin)
        if not found.submodule_search_locations:
            yield origin.name, origin
            continue
        root = origin.parent
        for folder, folders, files in os.walk(root):
            place = Path(folder)
            if place.name == "data" and place.parent == root:
                folders[:] = [name for name in folders if name in SERVICES]
            for file in files:
                bytecode = place.name == "__pycache__" and file.endswith(BYTECODE)
                if bytecode or file.endswith(KEPT):
                    yield str((place / file).relative_to(root.parent)), place / file


def make(target: Path, files: dict[str, Path]) -> None:
    """Copy the files; another process may do the same at the same time."""
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        for name, source in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time, which is what bytecode is compared with.
            shutil.copy2(source, draft / name)
        for folder in [draft, *(path for path in draft.rglob("*") if path.is_dir())]:
            # Read by whoever a backend runs the step as.
            folder.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        if draft.exists():
            shutil.rmtree(draft)


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
