"""What stands for Daytona's daemon inside a sandbox; run with ``python3 -c`` of this text.

Lines of JSON come over stdin, each with a number that its answer over stdout carries, too. As was found by
trying the real one: a command is what a shell reads from its stdin, its streams are one, what does not end
in time is killed and its output lost, and the code of a signal or of a missing directory is -1.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

lock = threading.Lock()


def answer(asked):
    """Do one thing, in a thread of its own."""
    try:
        told = {"execute": execute, "upload": upload}[asked["do"]](asked)
    except OSError as error:
        told = {"error": str(error)}
    text = json.dumps({"number": asked["number"], **told}).encode() + b"\n"
    with lock:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


def execute(asked):
    if not Path(asked["cwd"] or "/").is_dir():
        return {"exitCode": -1, "result": ""}
    shell = subprocess.Popen(
        ["/bin/sh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=asked["cwd"] or "/",
        env={**os.environ, **(asked["envs"] or {})},
        start_new_session=True,
    )
    try:
        written, _ = shell.communicate(asked["command"].encode(), asked["timeout"] or 10)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
        return {"late": True}
    return {"exitCode": max(-1, shell.returncode), "result": written.decode(errors="replace")}


def upload(asked):
    for name, content in asked["files"].items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(base64.b64decode(content))
    return {}


for line in sys.stdin.buffer:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
