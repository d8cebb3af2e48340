"""Direct mode: a task whose step reads and writes the datastore itself, seen from the launcher.

The step leaves its results as a draft, and its metadata as an archive, beside its own files in the datastore.
Both are read here once the sandbox is closed; what the scheduler unpickles is vetted before the results get
their name.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import RelayError
from ..relay.drafts import DONE, RECORDS, RESULTS, draft_names, own_file
from ..relay.intake import MAX_JSON, Intake
from ..relay.records_archive import Records, read_records
from ..relay.services import Storage, Witness
from ..relay.vetting import SCHEDULER_ARTIFACTS, check_data_json
from .inside import CERTIFICATES, CONFIGURATION, CREDENTIALS
from .loaded import loaded
from .protocol import TaskSettings
from .replay import Replay
from .run_context import RunContext

PULL_INTERVAL = 20.0  # seconds between two looks at what a running task has written
TRIES = 4  # of what the metadata provider refuses; it tries again itself, for half a minute
PAUSE = 2.0  # seconds before the second, doubled for each further one


class DirectTask:
    """The launcher's part in one attempt."""

    def __init__(
        self,
        run: RunContext,
        task: TaskSettings,
        witness: Witness,
        intake: Intake,
        facts: Mapping[str, str],
    ) -> None:
        self._run, self._task, self._identity = run, task, task.identity
        self._key = f"{task.identity.flow}/{task.identity.key}"
        self._witness, self._intake = witness, intake
        self._datastore = run.settings.datastore
        self._replay = Replay(task.identity, self._datastore, run.services, facts, intake, witness.refused)
        self._pulling = threading.Lock()
        self._published = False
        self._ended = False
        self._call_off: Callable[[], object] = lambda: None

    def files(self, directory: Path, python: str) -> Mapping[str, Path]:
        """What the step needs to reach the datastore, by names inside; ``directory`` is the task's, private.

        Raises BackendUnavailable when there are no credentials.
        """
        assert self._task.direct
        contents = {
            CREDENTIALS: json.dumps(self._run.services().s3_credentials(self._identity)),
            CONFIGURATION: configuration(self._task.direct.configuration, python),
        }
        if self._task.direct.certificates:
            contents[CERTIFICATES] = Path(self._task.direct.certificates).read_text()
        place = directory / "direct"
        place.mkdir(exist_ok=True)
        for name, content in contents.items():
            (place / name).write_text(content)
        return {name: place / name for name in contents}

    def watch(self) -> None:
        """Pass its metadata on while it runs."""
        self._call_off = self._run.watcher.call_at(time.monotonic() + PULL_INTERVAL, self._look)

    def settle(self, *, cancelled: bool) -> None:
        """Take in what the task has left, once its sandbox is closed.

        ``cancelled`` tasks, whom nobody waits for, are only listened to. Raises RelayError when the metadata
        cannot be passed on.
        """
        self._ended = True
        self._call_off()
        try:
            error = self._take_in(cancelled=cancelled)
        except Exception as failure:
            raise RelayError(
                f"what the task has left in the datastore cannot be read or published: "
                f"{type(failure).__name__}: {failure}"
            ) from failure
        for number in range(1, 1 if cancelled else TRIES):
            if error is None:
                break
            time.sleep(PAUSE * 2 ** (number - 1))
            error = self._pull(self._storage())
        if error is not None:
            raise RelayError(
                f"the task's metadata cannot be registered ({type(error).__name__}: {error}): look at the "
                "metadata service"
            ) from error
        if self._published and not self._replay.done:
            raise RelayError("the task's metadata has not arrived in the datastore: see what the step says")

    def _take_in(self, *, cancelled: bool) -> Exception | None:
        drafts = draft_names(self._key).values()
        with loaded(self._storage(), [own_file(self._key, RECORDS), *drafts]) as ahead:
            if not cancelled:
                raw, done = (read(ahead, path) for path in drafts)
                self._publish(raw, done=done is not None)
            return self._pull(ahead)

    # --- results ------------------------------------------------------------------------------

    def _publish(self, raw: bytes | None, *, done: bool) -> None:
        """Give the drafts their names, if the scheduler may read what they name."""
        storage = self._storage()
        results, last = own_file(self._key, RESULTS), own_file(self._key, DONE)
        try:
            if raw is not None:
                objects = check_data_json(raw[: MAX_JSON + 1])["objects"]
                keys = [objects[name] for name in SCHEDULER_ARTIFACTS & objects.keys()]
                blobs = [f"{self._identity.flow}/data/{key[:2]}/{key}" for key in keys]
                with loaded(storage, list(dict.fromkeys(blobs))) as ahead:
                    self._intake.hand_in(ahead, results, raw, overwrite=True)
                if done:
                    storage.save_bytes(iter([(last, (io.BytesIO(b""), None))]), overwrite=True)
                    self._published = True
                    self._witness.finished()
        except RelayError as error:
            self._witness.refused(str(error))
        if not self._published and storage.is_file([last])[0]:
            # Only who does without Metaflow marks itself done: what it names must not be read by a resume.
            nothing = {"attempt": self._identity.attempt, "objects": {}, "info": {}}
            content = io.BytesIO(json.dumps(nothing).encode())
            storage.save_bytes(iter([(results, (content, None))]), overwrite=True)
            self._witness.refused("results that the step has marked as done itself")

    # --- metadata -----------------------------------------------------------------------------

    def _look(self) -> None:
        def look() -> None:
            self._pull(self._storage())  # what fails now is tried again
            if not self._ended:
                self.watch()

        # The datastore may take its time, and the watcher must not wait.
        threading.Thread(target=look, daemon=True).start()

    def _pull(self, storage: Storage) -> Exception | None:
        """Register what is new; the error that kept some of it back."""
        with self._pulling:
            try:
                records = self._records(storage)
                if records is not None:
                    self._replay.register(records, complete=self._published)
            except Exception as error:  # noqa: BLE001 -- the providers' own errors are theirs to name
                self._witness.failed("the task's metadata", error)
                return error
        return None

    def _records(self, storage: Storage) -> Records | None:
        with storage.load_bytes([own_file(self._key, RECORDS)]) as loaded:
            for _key, local, _metadata in loaded:
                if local is not None:
                    try:
                        return read_records(Path(local), self._identity)
                    except RelayError as error:
                        self._replay.refuse(str(error))
        return None

    # --- the datastore ------------------------------------------------------------------------

    def _storage(self) -> Storage:
        return self._run.services().storage(self._datastore)


def read(storage: Storage, path: str) -> bytes | None:
    """An object, a byte more than Metaflow's largest at the most; None where there is none."""
    with storage.load_bytes([path]) as found:
        for _key, local, _metadata in found:
            if local is not None:
                with Path(local).open("rb") as source:
                    return source.read(MAX_JSON + 1)
    return None


def configuration(lines: Mapping[str, str], python: str) -> str:
    """An AWS configuration in which whatever the step uses, such as its own boto3, finds the credentials."""
    program = "from metaflow_extensions.sandbox.guest import credentials; credentials.main()"
    options = {**lines, "credential_process": f'"{python}" -c "{program}"'}
    return "[default]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
