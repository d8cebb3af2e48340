"""The bucket of the tests, with a client of it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import bucket as plain

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True)
class Bucket:
    """Where it is, and what is in it; ``settings`` are a launcher's environment whose datastore it is."""

    settings: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        """Its server."""
        return self.settings["METAFLOW_S3_ENDPOINT_URL"]

    def names(self, prefix: str) -> list[str]:
        """What is in it below metaflow/PREFIX."""
        client: Any = importlib.import_module("boto3").client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.settings[KEYS[0]],
            aws_secret_access_key=self.settings[KEYS[1]],
            region_name=self.settings["AWS_DEFAULT_REGION"],
        )
        pages = client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=plain.BUCKET, Prefix=f"metaflow/{prefix}")
        return [each["Key"].removeprefix("metaflow/") for page in found for each in page.get("Contents", [])]


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """Make one, on a server in this process."""
    with plain.bucket() as settings:
        yield Bucket(settings)
