"""The program that starts every command inside: here it runs on this machine, with a test's own input."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.microsandbox import loader

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it runs on Linux alone")
TEXT = Path(loader.__file__).read_text()


def start(tmp_path: Path, argv: list[str], **changes: Any) -> subprocess.Popen[bytes]:
    """The loader with its job."""
    job: dict[str, Any] = {
        "cwd": str(tmp_path),
        "stdin": False,
        "directories": [],
        "inherited": [],
        "env": {},
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", TEXT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "OF_THE_AGENT": "1", "SSL_CERT_FILE": "/a/bundle"},
    )
    assert process.stdin
    process.stdin.write(loader.pack(**{**job, "argv": argv, **changes}))
    process.stdin.flush()
    return process


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -SEGV $$", 139), ("kill -KILL $$", 137), ("kill $$", 143)]
)
def test_how_it_ended_is_told(tmp_path: Path, script: str, code: int) -> None:
    """Guards the signal that the agent would not tell."""
    process = start(tmp_path, shell(script))
    assert process.communicate() == (b"", b"")
    assert process.returncode == code


def test_the_environment_is_the_jobs(tmp_path: Path) -> None:
    """Guards against the agent's variables, of which certificates are kept where they are asked for."""
    env = {"A": "1", "LINES": "a\nb", "HOME": "/h"}
    process = start(tmp_path, ["/usr/bin/env", "-0"], env=env, inherited=["SSL_CERT_FILE", "ABSENT"])
    said = dict(word.split("=", 1) for word in process.communicate()[0].decode().split("\0") if word)
    assert said == {**env, "PATH": os.environ["PATH"], "SSL_CERT_FILE": "/a/bundle"}


def test_directories_are_made_and_entered(tmp_path: Path) -> None:
    """Guards the working directory, which an image does not have."""
    place = tmp_path / "a" / "b"
    process = start(tmp_path, ["/bin/pwd"], cwd=str(place), directories=[str(place)])
    assert process.communicate()[0].decode() == f"{place}\n"
    assert place.stat().st_mode & 0o777 == 0o700


def test_what_follows_the_job_is_the_commands(tmp_path: Path) -> None:
    """Guards the border between the job and the input, which come over one stream."""
    process = start(tmp_path, ["/bin/cat"], stdin=True)
    assert process.communicate(b"0123\0\xff") == (b"0123\0\xff", b"")


def test_without_input_there_is_none(tmp_path: Path) -> None:
    """Guards against a command that eats what the launcher sends later."""
    process = start(tmp_path, ["/bin/cat"])
    assert process.communicate(b"not yours") == (b"", b"")


@pytest.mark.parametrize(
    ("argv", "changes", "code"),
    [
        (["/no/such"], {}, 127),
        (["no-such-program"], {}, 127),
        (["/"], {}, 126),
        (["/bin/true"], {"cwd": "/no/such"}, 127),
    ],
)
def test_what_cannot_start_says_so(
    tmp_path: Path, argv: list[str], changes: dict[str, Any], code: int
) -> None:
    """Guards the codes that the supervisor takes for a program that is not there."""
    process = start(tmp_path, argv, **changes)
    _, said = process.communicate()
    assert process.returncode == code
    assert said.startswith(b"cannot start")


FAMILY = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("grandchild", "w").write(str(os.getpid()))
        time.sleep(600)
    time.sleep(600)
while not (os.path.exists("grandchild") and open("grandchild").read()):
    time.sleep(0.01)
os.write(1, b"up")
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("kill", [False, True], ids=["left", "killed"])
def test_nothing_stays(tmp_path: Path, kill: bool) -> None:
    """Guards against children in sessions of their own, which no signal to a group reaches."""
    process = start(tmp_path, [sys.executable, "-c", FAMILY, "600" if kill else "0"])
    assert process.stdout
    assert process.stdout.read(2) == b"up"
    if kill:
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == (137 if kill else 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "grandchild").read_text()), 0)


def test_a_launcher_that_is_gone_ends_it(tmp_path: Path) -> None:
    """Guards against a loader that waits for the rest of its job for ever."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", TEXT], stdin=subprocess.PIPE)
    process.communicate(b"0000")
    assert process.returncode == 137


def test_the_oldest_python_of_images_reads_it() -> None:
    """Guards images with Python 3.8, by its grammar."""
    assert ast.parse(TEXT, feature_version=(3, 8)).body


def test_a_job_of_every_byte_arrives(tmp_path: Path) -> None:
    """Guards words that are not text, or empty."""
    argv = [sys.executable, "-c", "import os, sys; os.write(1, repr(sys.argv[1:]).encode())"]
    words = ["", "\udcff\udc80", "a b", "ü😀", "-x"]
    process = start(tmp_path, [*argv, *words], env={"LC_ALL": "C.UTF-8"})
    assert process.communicate()[0].decode() == repr(words)
