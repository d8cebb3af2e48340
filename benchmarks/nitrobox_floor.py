"""The floor of nitrobox, which has no command for it: a sandbox of the image given, ``true`` in it, its end.

Prints the seconds without nitrobox's import, which a supervisor pays once: METAFLOW_SANDBOX_FLOOR="python
benchmarks/nitrobox_floor.py IMAGE".
"""

from __future__ import annotations

import sys
import tempfile
from time import perf_counter

from nitrobox import Sandbox, SandboxConfig
from nitrobox.image.store import _image_store_populate


def main(image: str) -> None:
    # Otherwise it waits half a minute for a build daemon before it takes a directory.
    facts = {
        "cmd": None,
        "entrypoint": None,
        "env": {},
        "working_dir": "/",
        "exposed_ports": [],
        "diff_ids": [],
    }
    _image_store_populate(image, facts)
    with tempfile.TemporaryDirectory() as base:
        begin = perf_counter()
        sandbox = Sandbox(SandboxConfig(image=image, env_base_dir=base, net_isolate=True), name="floor")
        _, code = sandbox.run("true")
        sandbox.delete()
        print(f"FLOOR {perf_counter() - begin}")
    if code:
        raise SystemExit(f"true ended with {code}")


if __name__ == "__main__":
    main(sys.argv[1])
