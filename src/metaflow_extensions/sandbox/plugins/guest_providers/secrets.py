"""Secrets inside a sandbox: fetched by the launcher, and only those that the step declares."""

from __future__ import annotations

from typing import Any, ClassVar

from metaflow.plugins.secrets import SecretsProvider

from .relay import client, metaflow_errors


class RelaySecrets(SecretsProvider):
    """Asks the relay."""

    TYPE: ClassVar[str]

    def get_secret_as_dict(
        self, secret_id: str, options: dict[str, Any] | None = None, role: str | None = None
    ) -> dict[str, str]:
        """One secret's environment variables."""
        with metaflow_errors():
            answer = client.call("secret", type=self.TYPE, id=secret_id, options=options or {}, role=role)
        return dict(answer["values"])


class InlineRelaySecrets(RelaySecrets):
    """Secrets that stand in the flow."""

    TYPE = "inline"


class AwsRelaySecrets(RelaySecrets):
    """AWS Secrets Manager."""

    TYPE = "aws-secrets-manager"


class GcpRelaySecrets(RelaySecrets):
    """GCP Secret Manager."""

    TYPE = "gcp-secret-manager"


class AzureRelaySecrets(RelaySecrets):
    """Azure Key Vault."""

    TYPE = "az-key-vault"
