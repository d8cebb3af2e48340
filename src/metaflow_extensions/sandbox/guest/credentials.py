"""The datastore's credentials inside a sandbox: the task's own file's, and the launcher's when those age.

As a program it prints them the way the ``credential_process`` of an AWS configuration has to.
"""

from __future__ import annotations

import calendar
import json
import os
import sys
import time
from typing import Dict

FILE_VARIABLE = "METAFLOW_SANDBOX_S3_CREDENTIALS"
FRESH = 600.0  # seconds that credentials have to last


def credentials() -> Dict[str, str]:
    """AccessKeyId, SecretAccessKey and, where they have any, SessionToken and Expiration."""
    with open(os.environ[FILE_VARIABLE], encoding="utf-8") as file:
        found: Dict[str, str] = json.load(file)
    if seconds_left(found) >= FRESH:
        return found
    # Here: most steps end before theirs age.
    from .client import RelayClient

    renewed: Dict[str, str] = RelayClient().call("s3_credentials")["credentials"]
    return renewed


def seconds_left(found: Dict[str, str]) -> float:
    """Until they expire, such as at 2026-01-31T12:00:00Z; those without an end last for ever."""
    end = found.get("Expiration")
    if not end:
        return float("inf")
    return calendar.timegm(time.strptime(end[:19], "%Y-%m-%dT%H:%M:%S")) - time.time()


def main() -> None:
    """Print them."""
    sys.stdout.write(json.dumps({"Version": 1, **credentials()}))
