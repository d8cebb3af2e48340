"""Session policies, looked at by moto's own evaluator of IAM policies."""

from __future__ import annotations

import json

import pytest
from moto.iam.access_control import IAMPolicy, PermissionResult

from metaflow_extensions.sandbox.relay.drafts import RECORDS, draft_names, own_file
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor.s3_policy import (
    MAX_POLICY,
    joined,
    session_policy,
    split,
    temporary_request,
)

TASK = TaskIdentity("Flow", "12", "train", "7", 1)
ROOT, CARDS, TOOLS = "s3://bucket/meta/flow", "s3://bucket/meta/flow/mf.cards", "s3://bucket/meta/flow/data"


def allowed(action: str, path: str, bucket: str = "bucket") -> bool:
    policy = IAMPolicy(session_policy(TASK, ROOT, CARDS, TOOLS, encryption=True))
    found = policy.is_action_permitted(f"s3:{action}", f"arn:aws:s3:::{bucket}/{path}")
    return bool(found == PermissionResult.PERMITTED)


@pytest.mark.parametrize(
    "path",
    [
        "Flow/12/train/7/1.attempt.json",
        own_file("Flow/12/train/7/1", RECORDS),
        *draft_names("Flow/12/train/7/1").values(),
        "Flow/data/ab/abcdef",
        "mf.cards/Flow/runs/12/steps/train/tasks/7/cards/x.html",
        "mf.cards/Flow/runs/12/tasks/7/cards/x.html",
        "data/Flow/12/mine",
    ],
)
def test_what_a_task_writes(path: str) -> None:
    """Guards an honest task, whose files have to arrive."""
    assert allowed("PutObject", f"meta/flow/{path}")
    assert allowed("GetObject", f"meta/flow/{path}")


@pytest.mark.parametrize(
    "path",
    [
        "Flow/12/train/7/1.data.json",
        "Flow/12/train/7/1.DONE.lock",
        "Flow/12/train/7/0.data.json",
        "Flow/12/train/77/1.attempt.json",
        "Flow/12/start/7/1.attempt.json",
        "Flow/13/train/7/1.attempt.json",
        "Flow/12/_parameters/1/0.data.json",
        "Other/data/ab/abcdef",
        "Other/12/train/7/1.attempt.json",
        "mf.cards/Flow/runs/12/steps/train/tasks/8/cards/x.html",
        "data/Flow/13/theirs",
        "data/Flow/0123456789",
        "conda/package",
    ],
)
def test_what_a_task_may_not_write(path: str) -> None:
    """Guards other tasks' and runs' files, and what the launcher says about this one."""
    assert not allowed("PutObject", f"meta/flow/{path}")


def test_what_a_task_reads() -> None:
    """Guards other flows' and buckets' data; a flow's own runs may be read."""
    assert allowed("GetObject", "meta/flow/Flow/11/start/3/0.data.json")
    assert allowed("GetObject", "meta/flow/data/Flow/0123456789")
    assert not allowed("GetObject", "meta/flow/Other/11/start/3/0.data.json")
    assert not allowed("GetObject", "else")
    assert not allowed("GetObject", "meta/flow/Flow/11/start/3/0.data.json", "other")
    for action in ("DeleteObject", "PutObjectAcl", "PutBucketPolicy", "PutObjectTagging"):
        assert not allowed(action, "meta/flow/Flow/12/train/7/1.attempt.json")


def long_policy(prefix: int) -> str:
    task = TaskIdentity("A" * 60, "1795251078384104", "b" * 60, "123456", 3)
    root = "s3://" + "c" * 63 + "/" + "d" * prefix
    return session_policy(task, root, f"{root}/mf.cards", f"{root}/data", encryption=True)


def test_it_fits() -> None:
    """Guards against a policy that STS refuses, with names as long as they come; it is a wider one then."""
    policy = long_policy(20)
    assert len(policy) <= MAX_POLICY
    names = [
        name
        for each in json.loads(policy)["Statement"]
        if each["Effect"] == "Deny"
        for name in each["Resource"]
    ]
    assert [name.rpartition("/")[2] for name in names] == ["3.data.json", "3.DONE.lock"]
    with pytest.raises(ValueError, match="and STS takes 2048"):
        long_policy(400)


def test_roots() -> None:
    """Guards buckets without a prefix, and those with a slash at their end."""
    assert split("s3://bucket") == ("bucket", "")
    assert split("s3://bucket/a/b/") == ("bucket", "a/b")
    assert joined("", "Flow/x") == "Flow/x"


def test_request_of_r2() -> None:
    """Guards the form of the one question that R2 is asked; the secret key is not in it."""
    asked = json.loads(
        temporary_request({"AccessKeyId": "id", "SecretAccessKey": "no"}, "b", ["a/Flow/"], 900)
    )
    assert asked == {
        "bucket": "b",
        "parentAccessKeyId": "id",
        "permission": "object-read-write",
        "ttlSeconds": 900,
        "prefixes": ["a/Flow/"],
    }
