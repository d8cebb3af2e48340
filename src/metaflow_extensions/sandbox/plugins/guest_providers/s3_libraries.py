"""boto3 inside a sandbox: the image's own, else the launcher's that came along."""

from __future__ import annotations

import importlib.util
import os
import sys

VARIABLE = "METAFLOW_SANDBOX_S3_LIBRARIES"


def make_importable() -> None:
    """Put the launcher's copy on the search path where the image has none."""
    place = os.environ.get(VARIABLE)
    if not place or importlib.util.find_spec("boto3"):
        return
    # Last, so that the image's own libraries stay what the step sees; but its botocore would go with
    # a boto3 of its own age only.
    position = 0 if importlib.util.find_spec("botocore") else len(sys.path)
    sys.path.insert(position, f"{place}/modules.zip")
    # What is in a zip file is no file: botocore finds the rest by these, here and in its child processes.
    os.environ.setdefault("AWS_DATA_PATH", f"{place}/data")
    os.environ.setdefault("AWS_CA_BUNDLE", f"{place}/cacert.pem")
