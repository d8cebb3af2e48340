"""``python -m tests.integration.with_clouds COMMAND…``: run it beside stand-ins for E2B and Daytona."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

from .clouds import CLOUDS, running_cloud


def main(command: list[str]) -> int:
    """The command's exit code; its environment leads to the stand-ins, whatever else it led to."""
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        for name in CLOUDS:
            environment |= stack.enter_context(running_cloud(name)).server.settings
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
