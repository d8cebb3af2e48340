"""What IncludeFile reads its files with, inside a sandbox."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from .relay import client, metaflow_errors


class IncludedFileCopy:
    """The part of Metaflow's LocalObject that IncludeFile uses."""

    def __init__(self, url: str, path: str | None) -> None:
        self.url = url
        self.path = path
        self.exists = path is not None
        self.size = Path(path).stat().st_size if path is not None else None


class RelayDataClient:
    """Reads the flow's included files through the relay."""

    TYPE = ""

    def __enter__(self) -> RelayDataClient:
        self._directory = tempfile.TemporaryDirectory(prefix="metaflow-include-")
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    @classmethod
    def get_root_from_config(cls, echo: Any, create_on_absent: bool = True) -> None:
        """Nothing is uploaded from inside a sandbox."""

    def get(self, url: str, return_missing: bool = False) -> IncludedFileCopy:
        """A local copy, kept until the client is left."""
        with metaflow_errors():
            included = client.include(self.TYPE, url)
            if not included.found:
                return IncludedFileCopy(url, None)
            path = Path(self._directory.name, url.rpartition("/")[2])
            if included.file:
                shutil.move(included.file, path)
            else:
                with path.open("wb") as copy:
                    copy.writelines(included.chunks)
        return IncludedFileCopy(url, str(path))

    info = get


class LocalRelayClient(RelayDataClient):
    """``local://``."""

    TYPE = "local"


class S3RelayClient(RelayDataClient):
    """``s3://``."""

    TYPE = "s3"


class AzureRelayClient(RelayDataClient):
    """``azure://``."""

    TYPE = "azure"


class GSRelayClient(RelayDataClient):
    """``gs://``."""

    TYPE = "gs"
