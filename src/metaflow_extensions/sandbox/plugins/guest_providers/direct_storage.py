"""The datastore in direct mode: Metaflow's own for S3, with the task's results as a draft.

The scheduler unpickles what the files name that say which artifacts an attempt has, and that it is done. The
launcher looks at that first: inside, the two have names of their own, and the launcher writes the real ones.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import Any, ClassVar

from metaflow.datastore.datastore_storage import CloseAfterUse
from metaflow.plugins.datastores.s3_storage import S3Storage
from metaflow.plugins.datatools.s3.s3 import S3Client

from ...relay.drafts import TASK_VARIABLE, draft_names
from .s3_libraries import make_importable

make_importable()
# Path of each of the two files, and of its draft.
DRAFTS = draft_names(os.environ[TASK_VARIABLE])


FEW = 10  # objects that Metaflow saves one by one
AT_ONCE = 8
SMALL = 4 << 20  # bytes


class S3DirectStorage(S3Storage):
    """``--datastore s3``."""

    _clients: ClassVar[dict[int, S3Client]] = {}

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
        # One for all storages of a process: each would take a tenth of a second to make.
        self.s3_client: Any = self._clients.setdefault(os.getpid(), S3Client())

    def is_file(self, paths: Iterable[str]) -> list[bool]:
        """For each path, whether it is an object."""
        found: list[bool] = super().is_file([DRAFTS.get(path, path) for path in paths])
        return found

    def info_file(self, path: str) -> tuple[bool, dict[str, Any] | None]:
        """(exists, the object's metadata)."""
        found: tuple[bool, dict[str, Any] | None] = super().info_file(DRAFTS.get(path, path))
        return found

    def size_file(self, path: str) -> int | None:
        """Bytes, None where there is no object."""
        size: int | None = super().size_file(DRAFTS.get(path, path))
        return size

    def save_bytes(
        self, path_and_bytes_iter: Iterable[Any], overwrite: bool = False, len_hint: int = 0
    ) -> None:
        """Store objects; small ones several at once, for which Metaflow would start a process of its own."""
        one_by_one = super().save_bytes
        items = ((DRAFTS.get(path, path), content) for path, content in path_and_bytes_iter)
        if len_hint <= FEW:
            one_by_one(items, overwrite=overwrite)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            saving: deque[Future[None]] = deque()
            for item in items:
                if size_of(item) > SMALL:
                    # boto3 sends the parts of a large one at once; and only so many fit into memory.
                    one_by_one([item], overwrite=overwrite)
                    continue
                saving.append(pool.submit(one_by_one, [item], overwrite=overwrite))
                if len(saving) > 2 * AT_ONCE:
                    saving.popleft().result()
            for each in saving:
                each.result()

    def load_bytes(self, paths: list[str]) -> CloseAfterUse:
        """(path, local copy, metadata) of each key; the copies last as long as the context."""
        asked = {DRAFTS.get(path, path): path for path in paths}
        loaded = super().load_bytes(list(asked))

        def named() -> Iterator[tuple[str, str | None, dict[str, Any] | None]]:
            for key, local, metadata in loaded.data:
                yield asked.get(key, key), local, metadata

        return CloseAfterUse(named(), closer=loaded._closer)

    def put(self, path: str, content: bytes) -> None:
        """Store one small object without a thread: there may be no new ones at an interpreter's end."""
        bucket, _, prefix = self.datastore_root.partition("://")[2].partition("/")
        key = "/".join(part for part in (prefix.rstrip("/"), path) if part)
        from metaflow.metaflow_config import S3_SERVER_SIDE_ENCRYPTION

        encryption = {"ServerSideEncryption": S3_SERVER_SIDE_ENCRYPTION} if S3_SERVER_SIDE_ENCRYPTION else {}
        self.s3_client.client.put_object(Bucket=bucket, Key=key, Body=content, **encryption)


def size_of(item: tuple[str, Any]) -> int:
    """Bytes of (path, file or (file, metadata)); large where it is not known."""
    content = item[1][0] if isinstance(item[1], tuple) else item[1]
    return content.getbuffer().nbytes if isinstance(content, BytesIO) else SMALL + 1
