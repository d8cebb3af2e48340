"""Takes the task's records to the datastore: now and then while it runs, and at its end, failed or not."""

from __future__ import annotations

import atexit
import io
import os
import sys
import tarfile
import threading
from pathlib import Path

from ...relay.drafts import RECORDS, TASK_VARIABLE, own_file

ROOT_VARIABLE = "METAFLOW_SANDBOX_DIRECT_ROOT"  # of the datastore, s3://…
FIRST = 1.0  # seconds from the first record to the first upload
INTERVAL = 15.0  # seconds between two


class RecordsUpload:
    """One process's; ``directory`` below ``root`` is uploaded whole."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._root, self._directory = root, directory
        self._pid = 0
        self._dirty = threading.Event()
        self._uploading = threading.Lock()

    def changed(self) -> None:
        """There is something to upload, by a process that starts to write."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._dirty, self._uploading = threading.Event(), threading.Lock()
            atexit.register(self._finish)
            threading.Thread(target=self._run, args=(threading.Event(),), daemon=True).start()
        self._dirty.set()

    def _run(self, never: threading.Event) -> None:
        pause = FIRST
        while not never.wait(pause):
            self._upload()
            pause = INTERVAL

    def _finish(self) -> None:
        # A forked child ends with the parent's functions.
        if self._pid == os.getpid():
            self._upload()

    def _upload(self) -> None:
        from .direct_storage import S3DirectStorage

        with self._uploading:
            if not self._dirty.is_set():
                return
            self._dirty.clear()
            try:
                storage = S3DirectStorage(os.environ[ROOT_VARIABLE])
                storage.put(own_file(os.environ[TASK_VARIABLE], RECORDS), self._packed())
            except Exception as error:  # noqa: BLE001 -- boto3's, whatever they are: the step goes on
                self._dirty.set()
                sys.stderr.write(
                    f"The task's metadata could not be uploaded: {type(error).__name__}: {error}\n"
                )

    def _packed(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=3) as archive:
            for path in sorted(self._directory.glob("[!.]*.json")):
                archive.add(path, str(path.relative_to(self._root)))
        return packed.getvalue()
