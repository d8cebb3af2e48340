"""The S3 datastore as Metaflow reaches it from here: where it is, and credentials that a task may have.

Imports Metaflow and boto3: for the launcher only, the scheduler's check and the supervisor's providers.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from metaflow import metaflow_config
from metaflow.metaflow_config import CARD_S3ROOT, DATATOOLS_S3ROOT
from metaflow.plugins.aws.aws_client import get_aws_client
from metaflow.plugins.datatools.s3.s3util import get_s3_client

from ..errors import BackendUnavailable
from ..guest.credentials import FRESH, seconds_left
from ..relay.policy import TaskIdentity
from .s3_errors import explain
from .s3_policy import joined, session_policy, split, temporary_request

R2 = ".r2.cloudflarestorage.com"
CLOUDFLARE = "https://api.cloudflare.com/client/v4"
ANSWER = 30.0  # seconds
SESSION_NAME = re.compile(r"[^\w+=,.@-]")  # what the name of a session may not have
MAX_SESSION_NAME = 64

Credentials = dict[str, str]


@dataclass(frozen=True)
class S3Place:
    """Where a bucket is and how it is spoken to, as boto3 found it in the launcher's settings.

    ``options`` are lines of an AWS configuration, ``certificates`` a file of authorities of its own; at an
    ``unverified`` endpoint no certificate is looked at.
    """

    endpoint: str
    region: str
    custom: bool
    certificates: str
    options: Mapping[str, str]
    unverified: bool = False

    @property
    def host(self) -> str:
        """The endpoint's host."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def is_r2(self) -> bool:
        """Whether it is Cloudflare's."""
        return self.host.endswith(R2)


class S3Access:
    """The datastore at ``root``, s3://bucket/prefix, for the tasks of one flow."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.client = get_s3_client()[0]
        self._lock = threading.Lock()
        self._sts: Any = None

    def place(self) -> S3Place:
        """Where it is."""
        from botocore.session import Session

        meta = self.client.meta
        host = urlsplit(meta.endpoint_url).hostname or ""
        verify = metaflow_config.DATATOOLS_CLIENT_PARAMS.get("verify")
        if verify is None:
            verify = Session().get_config_variable("ca_bundle")
        options = {
            name: getattr(meta.config, name)
            for name in ("request_checksum_calculation", "response_checksum_validation")
            if getattr(meta.config, name, None) not in (None, "when_supported")
        }
        style = (meta.config.s3 or {}).get("addressing_style")
        if style:
            options["s3"] = f"\n    addressing_style = {style}"
        return S3Place(
            meta.endpoint_url,
            meta.region_name or "",
            not host.endswith((".amazonaws.com", ".amazonaws.com.cn")),
            verify if isinstance(verify, str) else "",
            options,
            verify is False,
        )

    def resolved(self) -> Credentials:
        """The launcher's own, fresh. Raises what botocore raises when there are none."""
        # Whatever provider of clients is installed: these are what Metaflow itself signs with.
        own = self.client._request_signer._credentials
        if own is None:
            from botocore.exceptions import NoCredentialsError

            raise NoCredentialsError
        frozen = own.get_frozen_credentials()
        found = {"AccessKeyId": frozen.access_key, "SecretAccessKey": frozen.secret_key}
        if frozen.token and (not self.place().is_r2 or setting("S3_SESSION_TOKEN") == "keep"):
            found["SessionToken"] = frozen.token
            if getattr(own, "_expiry_time", None):
                found["Expiration"] = stamp(own._expiry_time)
        return found

    def of_task(self, task: TaskIdentity) -> Credentials:
        """What a task is given: a session of its own where one can be had, else the launcher's own.

        Raises BackendUnavailable when the session is refused.
        """
        if setting("S3_ROLE_ARN"):
            return self._session(task)
        if self.place().is_r2 and setting("R2_API_TOKEN"):
            return self._temporary(task)
        return self.resolved()

    @property
    def scoped(self) -> bool:
        """Whether tasks get sessions of their own."""
        return bool(setting("S3_ROLE_ARN") or (self.place().is_r2 and setting("R2_API_TOKEN")))

    def _session(self, task: TaskIdentity) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError

        place = self.place()
        endpoint = setting("S3_STS_ENDPOINT")
        with self._lock:
            if self._sts is None:
                params = {"endpoint_url": endpoint} if endpoint else {}
                region = {"region_name": place.region} if place.region else {}
                self._sts = get_aws_client("sts", client_params={**params, **region})
        name = SESSION_NAME.sub("-", f"metaflow-{task.run}-{task.step}-{task.task}")[:MAX_SESSION_NAME]
        try:
            policy = session_policy(
                task, self.root, CARD_S3ROOT or self.root, DATATOOLS_S3ROOT, encryption=not place.custom
            )
        except ValueError as error:
            raise BackendUnavailable(
                f"{error}: shorten METAFLOW_DATASTORE_SYSROOT_S3 or the flow's name, or unset "
                "METAFLOW_SANDBOX_S3_ROLE_ARN"
            ) from error
        try:
            given = self._sts.assume_role(
                RoleArn=setting("S3_ROLE_ARN"),
                RoleSessionName=name,
                Policy=policy,
                DurationSeconds=duration(),
            )["Credentials"]
        except (ClientError, BotoCoreError) as error:
            raise BackendUnavailable(
                f"the role of METAFLOW_SANDBOX_S3_ROLE_ARN cannot be taken on: {error}. The launcher's "
                "credentials need sts:AssumeRole on it, its trust policy has to name them, and "
                "METAFLOW_SANDBOX_S3_ROLE_DURATION may not be over its longest session"
            ) from error
        return {
            **{key: given[key] for key in ("AccessKeyId", "SecretAccessKey", "SessionToken")},
            "Expiration": stamp(given["Expiration"]),
        }

    def _temporary(self, task: TaskIdentity) -> Credentials:
        """R2 limits a session to prefixes, for reading and writing alike."""
        account = self.place().host.partition(".")[0]
        bucket = split(self.root)[0]
        roots = [root for root in (self.root, CARD_S3ROOT, DATATOOLS_S3ROOT) if root]
        prefixes = [joined(split(root)[1], f"{task.flow}/") for root in roots if split(root)[0] == bucket]
        seconds = duration()
        base = setting("R2_API_URL") or CLOUDFLARE
        request = urllib.request.Request(  # noqa: S310 -- the setting's own scheme
            f"{base}/accounts/{account}/r2/temp-access-credentials",
            data=temporary_request(self.resolved(), bucket, list(dict.fromkeys(prefixes)), seconds),
            headers={
                "Authorization": f"Bearer {setting('R2_API_TOKEN')}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER) as answer:  # noqa: S310
                given = json.load(answer)["result"]
        except (OSError, ValueError, KeyError) as error:
            raise BackendUnavailable(
                f"R2 gives no temporary credentials ({error}): METAFLOW_SANDBOX_R2_API_TOKEN has to be a "
                "token of the bucket's account that may edit R2, and the access key one of R2's"
            ) from error
        end = datetime.fromtimestamp(datetime.now(timezone.utc).timestamp() + seconds, timezone.utc)
        return {
            "AccessKeyId": given["accessKeyId"],
            "SecretAccessKey": given["secretAccessKey"],
            "SessionToken": given["sessionToken"],
            "Expiration": stamp(end),
        }


class TaskCredentials:
    """The credentials of a run's tasks, each asked for again when they age."""

    def __init__(self, access: S3Access) -> None:
        self._access = access
        self._kept: dict[TaskIdentity, Credentials] = {}
        self._lock = threading.Lock()

    def of(self, task: TaskIdentity) -> Credentials:
        """Credentials that last for a while. Raises BackendUnavailable when there are none."""
        with self._lock:
            kept = self._kept.get(task)
        if kept is None or seconds_left(kept) < 2 * FRESH:
            kept = usable(self._access, lambda: self._access.of_task(task))
            with self._lock:
                self._kept[task] = kept
        return kept


def usable(access: S3Access, resolve: Callable[[], Credentials]) -> Credentials:
    """The credentials. Raises BackendUnavailable where there are none, or none any more."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return resolve()
    except (BotoCoreError, ClientError) as error:
        raise BackendUnavailable(
            explain(error, access.root, access.place().endpoint, "the launcher's credentials")
        ) from error


def duration() -> int:
    """Seconds of a session. Raises BackendUnavailable for a setting that is no such number."""
    value = setting("S3_ROLE_DURATION")
    if not str(value).isdigit() or not 900 <= int(value) <= 43200:
        raise BackendUnavailable(
            f"METAFLOW_SANDBOX_S3_ROLE_DURATION is a number of seconds from 900 to 43200; it is {value!r}"
        )
    return int(value)


def setting(name: str) -> Any:
    """The value of METAFLOW_SANDBOX_NAME."""
    return getattr(metaflow_config, f"SANDBOX_{name}")


def stamp(moment: datetime) -> str:
    """A moment as AWS writes it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
