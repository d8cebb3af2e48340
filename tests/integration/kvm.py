"""Whether virtual machines run here: one is booted once, and the answer kept until this machine boots anew.

METAFLOW_SANDBOX_TESTS_KVM=yes or =no says it instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from .images import layout, made_once, why_no_images

SETTING = "METAFLOW_SANDBOX_TESTS_KVM"
LONGEST = 120  # characters
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROGRAM = """
import sys
from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
BoxliteBackend().open(SandboxSpec(image=sys.argv[1], memory=512)).close()
"""


def why_no_machines() -> str | None:
    """What keeps virtual machines from booting here, None when nothing does."""
    said = os.environ.get(SETTING)
    if said:
        return None if said == "yes" else f"{SETTING}={said}"
    if why_no_images():
        return f"a machine boots an image: {why_no_images()}"
    if not BOOT_ID.exists():
        return f"{SETTING}=yes says that machines boot here"
    found = made_once(f"kvm-{BOOT_ID.read_text().strip()}", _boot).read_text()
    if not found:
        return None
    # Said for each of two hundred tests.
    return textwrap.shorten(f"no virtual machine boots here: {found}", LONGEST, placeholder=" …")


def _boot(draft: Path) -> None:
    here = {name: value for name, value in os.environ.items() if not name.startswith("BOXLITE_")}
    homes = draft.with_suffix(".homes")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(layout())],
        env={**here, "METAFLOW_SANDBOX_BOXLITE_HOME": str(homes)},
        stderr=subprocess.PIPE,
        check=False,
    )
    said = done.stderr.decode(errors="replace").strip().splitlines()
    draft.write_text((said or ["it ended without a word"])[-1] if done.returncode else "")
