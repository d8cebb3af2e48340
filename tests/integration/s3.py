"""A bucket for the tests: moto's server on the loopback, and the launcher's environment that leads to it."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moto.server import ThreadedMotoServer

BUCKET = "sandbox-tests"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """Where it is, and who may use it."""

    endpoint: str

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment of a launcher whose datastore it is."""
        return {
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{BUCKET}/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            **KEYS,
        }

    def client(self) -> Any:
        """A client of it."""
        return importlib.import_module("boto3").client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )

    def names(self, prefix: str) -> list[str]:
        """What is in it below metaflow/PREFIX."""
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=f"metaflow/{prefix}")
        return [each["Key"].removeprefix("metaflow/") for page in found for each in page.get("Contents", [])]


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """Make one, on a server in this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        made = Bucket(f"http://{host}:{port}")
        made.client().create_bucket(Bucket=BUCKET)
        yield made
    finally:
        server.stop()
