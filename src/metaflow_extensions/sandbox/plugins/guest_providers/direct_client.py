"""Clients of AWS in direct mode: with the task's credentials, renewed while it runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ...guest.credentials import credentials


class DirectClientProvider:
    """Stands for Metaflow's own provider, which needs ``requests``."""

    name = "boto3"

    @staticmethod
    def get_client(
        module: str,
        with_error: bool = False,
        role_arn: str | None = None,
        session_vars: dict[str, Any] | None = None,
        client_params: dict[str, Any] | None = None,
    ) -> Any:
        """A client of the service ``module``, with ``with_error`` beside the class of its errors."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError
        from metaflow.metaflow_config import S3_CLIENT_RETRY_CONFIG

        parameters = dict(client_params or {})
        config = parameters.get("config") or Config()
        if not isinstance(config, Config):
            config = Config(**config)
        if module == "s3" and config.retries is None:
            config = config.merge(Config(retries=S3_CLIENT_RETRY_CONFIG))
        session = boto3.session.Session(botocore_session=botocore_session(session_vars or {}, role_arn))
        client = session.client(module, **{**parameters, "config": config})
        return (client, ClientError) if with_error else client


def botocore_session(variables: dict[str, Any], role: str | None) -> Any:
    """A session with the task's credentials, or with a role's that they may take on."""
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        Credentials,
        DeferredRefreshableCredentials,
        RefreshableCredentials,
    )
    from botocore.session import Session

    def metadata() -> dict[str, Any]:
        found = credentials()
        return {
            "access_key": found["AccessKeyId"],
            "secret_key": found["SecretAccessKey"],
            "token": found.get("SessionToken"),
            "expiry_time": found.get("Expiration"),
        }

    session = Session(session_vars=variables)
    own = metadata()
    expires = own.pop("expiry_time")
    if expires:
        parsed = datetime.fromisoformat(expires.replace("Z", "+00:00"))
        session._credentials = RefreshableCredentials(
            **own, expiry_time=parsed, refresh_using=metadata, method="sandbox"
        )
    else:
        session._credentials = Credentials(**own)
    if role:
        fetcher = AssumeRoleCredentialFetcher(
            session.create_client, session.get_credentials(), role, extra_args={}
        )
        session._credentials = DeferredRefreshableCredentials(
            method="assume-role", refresh_using=fetcher.fetch_credentials
        )
    return session
