"""Files into a sandbox, as an upload that is moved into place, and out of it, over a command's output."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ...errors import UnsupportedOption
from ..interface import Command, Process, Stream
from .toolbox import CONTROL, PYTHON, Toolbox

MISSING, REFUSED = 3, 4
PUT = """
import base64, json, os, shutil, sys
source, target, mode = json.loads(base64.b64decode(sys.stdin.read()))
reason = ""
try:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target + ".draft")
    os.chmod(target + ".draft", mode)
    os.replace(target + ".draft", target)
    os.unlink(source)
except OSError as error:
    reason = str(error)
sys.stdout.write("~" + base64.b64encode(reason.encode("utf-8", "replace")).decode() + "~")
"""
GET = f"""
import os, shutil, stat, sys
path = sys.argv[1]
try:
    if os.path.realpath(path) != os.path.normpath(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        sys.exit({REFUSED} if os.path.lexists(path) else {MISSING})
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
except FileNotFoundError:
    sys.exit({MISSING})
"""


def put(toolbox: Toolbox, name: str, source: Path, target: PurePosixPath) -> None:
    """Copy a file to an absolute path inside, readable by all there. Raises UnsupportedOption for another."""
    mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
    if not target.is_absolute() or ".." in target.parts or "\0" in str(target) or not target.name:
        raise UnsupportedOption(f"{str(target)!r} must be an absolute path of a file without '..' or NUL")
    draft = f"{CONTROL}/{name}"
    toolbox.upload({draft: str(source)})
    given = json.dumps([draft, str(target), mode]).encode()
    reason = toolbox.run([PYTHON, "-I", "-S", "-c", PUT], given).decode()
    if reason:
        raise UnsupportedOption(f"{target} can't be written inside: {reason}")


def get(start: Callable[[Command], Process], source: PurePosixPath, target: Path) -> None:
    """Copy a regular file out. Raises FileNotFoundError, or PermissionError for what is none."""
    if not source.is_absolute() or "\0" in str(source):
        raise UnsupportedOption(f"{str(source)!r} must be an absolute path without NUL")
    process = start(Command([PYTHON, "-I", "-S", "-c", GET, str(source)]))
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as draft:
        try:
            said = b""
            for output in process.output():
                if output.stream is Stream.STDOUT:
                    draft.write(output.data)
                else:
                    said += output.data
            code = process.wait()
            if code == MISSING:
                raise FileNotFoundError(f"there is no {source} in the sandbox")
            if code:
                reason = said.decode(errors="replace")[-500:] or "only regular files are copied out"
                raise PermissionError(f"{source}: {reason}")
            Path(draft.name).replace(target)
        finally:
            Path(draft.name).unlink(missing_ok=True)
