"""Whether the datastore's bucket can be used, asked once before any sandbox is made."""

from __future__ import annotations

from typing import Any

from ..errors import BackendUnavailable
from ..relay.policy import TaskIdentity
from .s3_access import Credentials, S3Access, usable
from .s3_errors import explain
from .s3_policy import joined, split

PATIENCE = 10  # seconds for a connection, and for an answer


def check(access: S3Access, task: TaskIdentity) -> None:
    """Ask for one name in the bucket, with the credentials that ``task`` would have.

    Raises BackendUnavailable, with the cause and what mends it.
    """
    # The launcher's own first: what is wrong with them is no fault of the role's.
    ask(access, usable(access, access.resolved), "the launcher's credentials", task)
    if access.scoped:
        ask(access, usable(access, lambda: access.of_task(task)), "the task's own credentials", task)


def ask(access: S3Access, credentials: Credentials, whose: str, task: TaskIdentity) -> None:
    """List one name below the flow's part of the bucket."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    place = access.place()
    bucket, prefix = split(access.root)
    # Without the many tries that Metaflow's own client makes: this is to say at once what is wrong.
    config = access.client.meta.config.merge(
        Config(connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"total_max_attempts": 2})
    )
    verify: Any = False if place.unverified else place.certificates or None
    try:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=place.endpoint,
            region_name=place.region or None,
            verify=verify,
            config=config,
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials.get("SessionToken"),
        )
        client.list_objects_v2(Bucket=bucket, Prefix=joined(prefix, f"{task.flow}/"), MaxKeys=1)
    except (BotoCoreError, ClientError) as error:
        raise BackendUnavailable(explain(error, access.root, place.endpoint, whose)) from error
