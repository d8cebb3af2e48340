"""Another process of the same user: opens a sandbox and waits to be killed, or destroys one.

Run as ``python launcher.py JSON`` with ``backend`` (an import path) and ``destroy`` (an id), or ``spec``
and ``argv``; prints the id of the sandbox once the command runs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from metaflow_extensions.sandbox.backends.interface import Command, PythonEnvironment, SandboxSpec
from metaflow_extensions.sandbox.backends.registry import load


def main(request: dict[str, Any]) -> None:
    """Do what is asked."""
    backend = load(request["backend"])
    if "destroy" in request:
        backend.destroy(request["destroy"])
        return
    spec = request["spec"]
    if spec["python"] is not None:
        roots, path = (tuple(map(Path, spec["python"][name])) for name in ("roots", "path"))
        spec["python"] = PythonEnvironment(Path(spec["python"]["executable"]), roots, path)
    sandbox = backend.open(SandboxSpec(**spec))
    process = sandbox.start(Command(request["argv"]))
    next(iter(process.output()))
    sys.stdout.write(sandbox.id + "\n")
    sys.stdout.flush()
    time.sleep(3600)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
