"""What Metaflow finds: the decorators and, inside a sandbox only, providers that speak to the relay."""

import atexit
import gc
import os

STEP_DECORATORS_DESC = [
    ("sandbox", ".sandbox_decorator.SandboxDecorator"),
    ("bubblewrap", ".aliases.BubblewrapDecorator"),
    ("boxlite", ".aliases.BoxliteDecorator"),
    ("docker", ".aliases.DockerDecorator"),
    ("podman", ".aliases.PodmanDecorator"),
    ("nitrobox", ".aliases.NitroboxDecorator"),
    ("pybox", ".aliases.PyboxDecorator"),
    ("e2b", ".aliases.E2BDecorator"),
    ("daytona", ".aliases.DaytonaDecorator"),
    ("metalbox", ".aliases.MetalboxDecorator"),
    ("microsandbox", ".aliases.MicrosandboxDecorator"),
]

CLIS_DESC = [("sandbox", ".sandbox_cli.cli")]

if os.environ.get("METAFLOW_SANDBOX_GUEST"):
    # A step's memory goes with its sandbox: the search for cycles at the end is a fifth of a step.
    atexit.register(gc.freeze)
    # Plugins of a name replace core's: inside, everything goes through the relay.
    DATASTORES_DESC = [
        ("local", ".guest_providers.storage.LocalRelayStorage"),
        ("spin", ".guest_providers.storage.SpinRelayStorage"),
        ("s3", ".guest_providers.storage.S3RelayStorage"),
        ("azure", ".guest_providers.storage.AzureRelayStorage"),
        ("gs", ".guest_providers.storage.GSRelayStorage"),
    ]
    METADATA_PROVIDERS_DESC = [
        ("local", ".guest_providers.metadata.LocalRelayMetadata"),
        ("service", ".guest_providers.metadata.ServiceRelayMetadata"),
        ("spin", ".guest_providers.metadata.SpinRelayMetadata"),
    ]
    DATACLIENTS_DESC = [
        ("local", ".guest_providers.dataclient.LocalRelayClient"),
        ("s3", ".guest_providers.dataclient.S3RelayClient"),
        ("azure", ".guest_providers.dataclient.AzureRelayClient"),
        ("gs", ".guest_providers.dataclient.GSRelayClient"),
    ]
    SECRETS_PROVIDERS_DESC = [
        ("inline", ".guest_providers.secrets.InlineRelaySecrets"),
        ("aws-secrets-manager", ".guest_providers.secrets.AwsRelaySecrets"),
        ("gcp-secret-manager", ".guest_providers.secrets.GcpRelaySecrets"),
        ("az-key-vault", ".guest_providers.secrets.AzureRelaySecrets"),
    ]
    if os.environ.get("METAFLOW_SANDBOX_DIRECT_TASK"):
        # In direct mode the step reaches the datastore itself, and nothing else.
        DATASTORES_DESC = [("s3", ".guest_providers.direct_storage.S3DirectStorage")]
        METADATA_PROVIDERS_DESC = [
            ("local", ".guest_providers.direct_metadata.LocalDirectMetadata"),
            ("service", ".guest_providers.direct_metadata.ServiceDirectMetadata"),
            ("spin", ".guest_providers.metadata.SpinRelayMetadata"),
        ]
        DATACLIENTS_DESC = []
        AWS_CLIENT_PROVIDERS_DESC = [("boto3", ".guest_providers.direct_client.DirectClientProvider")]
    SIDECARS_DESC = [
        ("heartbeat", ".guest_providers.sidecars.RelayHeartbeat"),
        ("spot_termination_monitor", ".guest_providers.sidecars.NoSpotMonitor"),
    ]
elif os.environ.get("METAFLOW_SERVICE_URL", "").startswith("http://127.0.0.1:"):
    if os.environ.get("METAFLOW_SANDBOX_HEARTBEAT") == "light":
        METADATA_PROVIDERS_DESC = [("service", ".light_service.LightServiceMetadata")]
        # Metaflow imports every sidecar at its start, and with core's two requests.
        SIDECARS_DESC = [
            ("heartbeat", ".light_sidecars.LateHeartbeat"),
            ("spot_termination_monitor", ".light_sidecars.LateSpotMonitor"),
        ]
    else:
        METADATA_PROVIDERS_DESC = [("service", ".local_service.TellingServiceMetadata")]
