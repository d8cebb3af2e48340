"""What a task's own session may do in the bucket, as a session policy of STS.

It never gives more than the role has. Names are those of the datastore's layout, see ``relay/policy.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..relay.drafts import draft_names
from ..relay.policy import TaskIdentity

# https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html, read 2026-01: characters of Policy.
MAX_POLICY = 2048
READ = ["s3:GetObject"]
WRITE = ["s3:PutObject", "s3:AbortMultipartUpload"]


def session_policy(
    task: TaskIdentity, datastore: str, cards: str, datatools: str | None, *, encryption: bool
) -> str:
    """The narrowest policy that fits, as JSON. The roots are URLs such as s3://bucket/prefix.

    Read: all of the flow, whose blobs any task may share. Written: the attempt's own files but the two that
    the launcher writes, the flow's blobs, the task's cards, and what the run keeps with ``S3(run=self)``.
    Where names are too long for that, all of the flow but those two. ``encryption`` lets it use the keys of
    encrypted buckets. Raises ValueError when even that does not fit.
    """
    flow, run = task.flow, task.run
    roots = [root for root in (datastore, cards, datatools) if root]
    whole = [resource(root, f"{flow}/*") for root in roots]
    own = [
        resource(datastore, f"{flow}/data/*"),
        resource(datastore, f"{flow}/{task.pathspec}/{task.attempt}.*"),
        resource(cards, f"{flow}/runs/{run}/*{task.task}/*"),
        *([resource(datatools, f"{flow}/{run}/*")] if datatools else []),
    ]
    launchers = [resource(datastore, path) for path in draft_names(f"{flow}/{task.key}")]
    common = [statement("Deny", WRITE, launchers), *listings(roots, flow)]
    if encryption:
        common.append(statement("Allow", ["kms:Decrypt", "kms:GenerateDataKey"], ["*"]))
    for allowed in (
        [statement("Allow", READ, whole), statement("Allow", WRITE, own)],
        [statement("Allow", READ + WRITE, whole)],
    ):
        document = {"Version": "2012-10-17", "Statement": allowed + common}
        policy = json.dumps(document, separators=(",", ":"))
        if len(policy) <= MAX_POLICY:
            return policy
    raise ValueError(f"a session policy of {len(policy)} characters, and STS takes {MAX_POLICY}")


def listings(roots: Iterable[str], flow: str) -> Iterable[dict[str, Any]]:
    """Statements that let the flow's part of each bucket be listed."""
    prefixes: dict[str, list[str]] = {}
    for root in roots:
        bucket, prefix = split(root)
        prefixes.setdefault(bucket, []).append(joined(prefix, f"{flow}/*"))
    for bucket, names in prefixes.items():
        yield {
            **statement("Allow", ["s3:ListBucket"], [f"arn:aws:s3:::{bucket}"]),
            "Condition": {"StringLike": {"s3:prefix": list(dict.fromkeys(names))}},
        }


def statement(effect: str, actions: list[str], resources: Iterable[str]) -> dict[str, Any]:
    """One statement, each resource once."""
    return {"Effect": effect, "Action": actions, "Resource": list(dict.fromkeys(resources))}


def resource(root: str, path: str) -> str:
    """The name of objects below a root such as s3://bucket/prefix."""
    bucket, prefix = split(root)
    return f"arn:aws:s3:::{bucket}/{joined(prefix, path)}"


def split(root: str) -> tuple[str, str]:
    """(bucket, prefix) of s3://bucket/prefix."""
    bucket, _, prefix = root.partition("://")[2].partition("/")
    return bucket, prefix.strip("/")


def joined(prefix: str, path: str) -> str:
    """A key."""
    return f"{prefix}/{path}" if prefix else path


def temporary_request(identity: Mapping[str, str], bucket: str, prefixes: list[str], seconds: int) -> bytes:
    """What R2's API for temporary credentials is asked, for reading and writing below the prefixes.

    https://developers.cloudflare.com/api/resources/r2/subresources/temporary_credentials
    """
    asked = {
        "bucket": bucket,
        "parentAccessKeyId": identity["AccessKeyId"],
        "permission": "object-read-write",
        "ttlSeconds": seconds,
        "prefixes": prefixes,
    }
    return json.dumps(asked).encode()
