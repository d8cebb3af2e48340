"""Files into a sandbox, as an upload that is moved into place."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from ...errors import UnsupportedOption
from ..inner_files import check_target, mode_of
from .toolbox import CONTROL, PYTHON, Toolbox

PUT = """
import base64, json, os, shutil, sys
source, target, mode = json.loads(base64.b64decode(sys.stdin.read()))
reason = ""
try:
    # It is removed when all is done: then the answer was lost, and this is the second call.
    if os.path.exists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target + ".draft")
        os.chmod(target + ".draft", mode)
        os.replace(target + ".draft", target)
        os.unlink(source)
except OSError as error:
    reason = str(error)
sys.stdout.write("~" + base64.b64encode(reason.encode("utf-8", "replace")).decode() + "~")
"""


def put(toolbox: Toolbox, name: str, source: Path, target: PurePosixPath) -> None:
    """Copy a file to an absolute path inside, readable by all there. Raises UnsupportedOption for another."""
    mode = mode_of(source)
    check_target(target)
    draft = f"{CONTROL}/{name}"
    toolbox.upload({draft: str(source)})
    given = json.dumps([draft, str(target), mode]).encode()
    reason = toolbox.run([PYTHON, "-I", "-S", "-c", PUT], given).decode()
    if reason:
        raise UnsupportedOption(f"{target} can't be written inside: {reason}")
