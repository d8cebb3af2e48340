"""Where a running service is: one for each ``.metaflow``, in the home of who runs it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..errors import ServiceError

HOST = "127.0.0.1"
INSTANCE = "METAFLOW-SANDBOX-SERVICE"
ANSWER_WITHIN = 10.0  # seconds; a loaded machine may take one


@dataclass(frozen=True)
class State:
    """A service: its process, port and root, and what it says at ``/ping`` that no other does."""

    pid: int
    port: int
    root: str
    instance: str

    @property
    def url(self) -> str:
        """What Metaflow is told."""
        return f"http://{HOST}:{self.port}"


def find_root(directory: Path) -> Path:
    """The directory whose ``.metaflow`` Metaflow's local datastore uses, seen from ``directory``."""
    configured = os.environ.get("METAFLOW_DATASTORE_SYSROOT_LOCAL")
    if configured:
        return Path(configured).resolve()
    here = directory.resolve()
    return next((place for place in (here, *here.parents) if (place / ".metaflow").is_dir()), here)


def folder() -> Path:
    """Where the states are."""
    return Path.home() / ".metaflow-sandbox" / "service"


def file(root: Path, suffix: str) -> Path:
    """The file of a root's service; suffixes are json, lock and log."""
    return folder() / f"{hashlib.sha1(os.fsencode(root), usedforsecurity=False).hexdigest()[:16]}.{suffix}"


def read(root: Path) -> State | None:
    """The state last written for a root, None where there is none that makes sense."""
    try:
        found = json.loads(file(root, "json").read_text())
        return State(**{field.name: found[field.name] for field in fields(State)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(state: State) -> None:
    """Keep a state, for this user alone. Raises OSError."""
    target = file(Path(state.root), "json")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(state)))
    draft.replace(target)


def forget(state: State) -> None:
    """Remove a state, unless it is another's by now."""
    if read(Path(state.root)) == state:
        file(Path(state.root), "json").unlink(missing_ok=True)


def running(root: Path) -> State | None:
    """The service that runs for a root. Raises ServiceError for one that does not answer."""
    state = read(root)
    if state is None:
        return None
    try:
        found = ping(state.port)
    except TimeoutError as error:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(state.pid, 0)
            raise ServiceError(
                f"The metadata service at {state.url} does not answer within {ANSWER_WITHIN:.0f} s. "
                f"End it: kill -9 {state.pid}"
            ) from error
        return None
    # The file of a killed one is still there, and its port may be another's.
    return state if found == state.instance else None


def ping(port: int) -> str | None:
    """Which service answers at a port, None for another program or nobody. Raises TimeoutError."""
    # Not urllib, which would ask a proxy.
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_WITHIN)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().getheader(INSTANCE)
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
