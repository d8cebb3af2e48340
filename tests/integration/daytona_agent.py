"""What stands for Daytona's daemon inside a sandbox; run with ``python3 -c`` of this text.

Lines of JSON come over stdin, each with a number that its answer over stdout carries, too, followed by the
``files`` whose sizes it names, or by as much ``size`` as the answer says. As was found by
trying the real one: a command is what a shell reads from its stdin, its streams are one, what does not end
in time is killed and its output lost, and the code of a signal or of a missing directory is -1.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

PIECE = 1 << 20  # bytes
lock = threading.Lock()


def answer(asked):
    """Do one thing, in a thread of its own."""
    content = io.BytesIO()
    try:
        told, content = DOES[asked["do"]](asked)
    except OSError as error:
        told = {"error": str(error)}
    with content:
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        text = json.dumps({"number": asked["number"], "size": size, **told}).encode() + b"\n"
        with lock:
            sys.stdout.buffer.write(text)
            for piece in pieces(content, size):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def execute(asked):
    if not Path(asked["cwd"] or "/").is_dir():
        return {"exitCode": -1}, io.BytesIO()
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
        return {"late": True}, io.BytesIO()
    return {"exitCode": max(-1, shell.returncode)}, io.BytesIO(written)


def upload(asked):
    return {"error": asked["errors"][0]} if asked["errors"] else {}, io.BytesIO()


def download(asked):
    if not Path(asked["name"]).is_file():
        return {"error": "file not found"}, io.BytesIO()
    return {}, Path(asked["name"]).open("rb")


def pack(asked):
    file = tempfile.TemporaryFile()  # noqa: SIM115 -- who sends it closes it
    with tarfile.open(fileobj=file, mode="w") as archive:
        for place in asked["places"]:
            archive.add("/" + place)
    return {}, file


def unpack(asked):
    os.chdir("/")
    with tarfile.open(asked["name"]) as archive:
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall()
    Path(asked["name"]).unlink()
    return {}, io.BytesIO()


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with Path(name).open("wb") as file:
        file.writelines(content)


def pieces(source, size):
    while size > 0:
        piece = source.read(min(PIECE, size))
        size -= len(piece)
        yield piece


DOES = {"execute": execute, "upload": upload, "download": download, "pack": pack, "unpack": unpack}
while line := sys.stdin.buffer.readline():
    asked = json.loads(line)
    asked["errors"] = []
    for name, size in asked["files"].items():
        content = pieces(sys.stdin.buffer, size)
        try:
            write(name, content)
        except OSError as error:
            asked["errors"].append(str(error))
            for _ in content:
                pass
    threading.Thread(target=answer, args=(asked,), daemon=True).start()
