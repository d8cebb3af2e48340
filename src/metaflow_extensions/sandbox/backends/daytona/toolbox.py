"""Calls into one sandbox, repeated when they or their answers are lost on the way."""

from __future__ import annotations

import base64
import binascii
import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import daytona
import httpx

from ...errors import CommandTimeout, SandboxError, SandboxLost, StartFailed, UnsupportedOption
from ...guest import holder_call
from ...guest.holder import ANSWER, ASK, MARK, PROGRAMS, START, input_file
from ...guest.holder_call import UNREACHABLE
from . import failures
from .client import ANSWER as QUICK
from .client import call
from .leftovers import find, state
from .parameters import TTL

T = TypeVar("T")
PLACE = "/var/tmp/metaflow-sandbox"
CONTROL = f"{PLACE}/control"  # for the sandbox's user alone, once a command was started
PYTHON = "python3"  # of the image
CALL = f"{CONTROL}/call.py"
GUEST = Path(holder_call.__file__).parent
UPLOADS = {
    CALL: str(holder_call.__file__),
    **{f"{CONTROL}/{name}": str(GUEST.parent / name) for name in PROGRAMS},
}
CLEAR = """
import shutil, sys
shutil.rmtree(sys.argv[1], ignore_errors=True)
sys.stdout.write("~~")
"""
EXTRA = 20  # seconds for what a call takes besides its waiting
UPLOAD = 600  # seconds
PATIENCE = 120.0  # seconds in which calls may fail while the sandbox is said to run
DENIED_FOR = 10.0  # seconds in which a key may be refused: one that has expired stays so
EXTEND_EVERY = TTL * 60 / 4  # seconds
MISSING = (126, 127)  # exit codes of a shell
# Answers: to calls that will never succeed, to keys that are none, and to one call too many.
WRONG, DENIED, BUSY = (400, 413, 422), (401, 403), 429


class Toolbox:
    """With ``extends``, Daytona's own end of the sandbox is put off by calls."""

    def __init__(self, sandbox: Any, *, extends: bool) -> None:
        self.id = str(sandbox.name)
        self._sandbox = sandbox
        self._destroyed = False
        self._equipping = threading.Lock()
        self._equipped = False
        self._extends = extends
        self._extended = time.monotonic()
        self._closed = threading.Event()

    def exists(self) -> bool:
        """Whether the sandbox is there; calls that fail find out that it is not."""
        return not self._destroyed

    def close(self) -> None:
        """The sandbox is gone for its launcher: no call is made or repeated any more."""
        self._closed.set()

    def upload(self, files: Mapping[str, bytes | str]) -> None:
        """Copy contents or files of this machine, by their target; our programs go along with the first."""
        with self._equipping:
            programs = {} if self._equipped else UPLOADS
            uploads = [daytona.FileUpload(source, name) for name, source in {**programs, **files}.items()]
            self._repeated(lambda: self._sandbox.fs.upload_files(uploads, UPLOAD), UPLOAD + EXTRA)
            self._equipped = True

    def remove_programs(self) -> None:
        """Leave nothing of ours inside but what was put there; no command can be started any more."""
        self.run([PYTHON, "-I", "-S", "-c", CLEAR, PLACE])

    def read(self, source: PurePosixPath) -> Iterator[bytes]:
        """A file's content. Raises FileNotFoundError, or StartFailed where it does not come to its end."""
        try:
            yield from self._sandbox.fs.download_file_stream(str(source), UPLOAD)
        except daytona.DaytonaNotFoundError as error:
            raise FileNotFoundError(f"there is no file {source} in the sandbox") from error
        except (daytona.DaytonaError, httpx.HTTPError) as error:
            raise StartFailed(f"the read of {source}: {error or type(error).__name__}") from error

    def put_input(self, name: str, offset: int, data: bytes) -> None:
        """Upload input from that offset on, for the command's holder to be asked to TAKE."""
        self.upload({input_file(f"{CONTROL}/{name}", offset): data})

    def start(self, name: str) -> str:
        """Start the job of that name; why it did not start, or nothing."""
        return self.run([PYTHON, "-I", "-S", "-c", START, CONTROL, name]).decode()

    def ask(
        self,
        name: str,
        what: int,
        offset: int,
        data: bytes = b"",
        *,
        wait: float = 0,
        most: int = 0,
        patience: float = PATIENCE,
    ) -> tuple[int, bytes]:
        """Ask a command's holder: the answer's offset and data. Raises SandboxLost."""
        request = ASK.pack(what, offset, int(wait * 1000), most) + data
        words = [PYTHON, "-I", "-S", CALL, f"{CONTROL}/{name}.socket"]
        answer = self.run(words, request, wait, patience)
        return ANSWER.unpack_from(answer)[0], answer[ANSWER.size :]

    def run(
        self, words: Sequence[str], given: bytes = b"", wait: float = 0, patience: float = PATIENCE
    ) -> bytes:
        """Run a program of ours, given bytes as base64 on its stdin; what it answered between MARKs."""
        # A document in the script: the daemon's shell reads its commands from stdin, too.
        command = f"exec {shlex.join(words)} <<'.'\n{base64.b64encode(given).decode()}\n.\n"
        seconds = int(wait) + EXTRA

        def execute() -> bytes:
            said = self._sandbox.process.exec(command, cwd="/", timeout=seconds)
            return _answer(said.exit_code, said.result)

        self._extend()
        return self._repeated(execute, seconds + 10, patience)

    def _repeated(self, action: Callable[[], T], deadline: float, patience: float = PATIENCE) -> T:
        """Do it until it succeeds. Raises SandboxLost when the sandbox is gone, or out of reach for long."""
        since, pause = time.monotonic(), 0.05
        while True:
            if self._closed.is_set():
                raise SandboxLost(f"sandbox {self.id} was closed, or passed its lifetime")
            try:
                return call(action, deadline)
            except (daytona.DaytonaError, CommandTimeout, _Unanswered) as error:
                status = getattr(error, "status_code", None)
                if status == BUSY:
                    # Uploads don't say for how long.
                    pause = max(pause, 1.0)
                else:
                    self._ensure_there(error)
                if status in WRONG:
                    raise StartFailed(f"sandbox {self.id} refuses a call: {error}") from error
                if time.monotonic() - since > (min(patience, DENIED_FOR) if status in DENIED else patience):
                    raise self._unreachable(error) from error
                self._closed.wait(failures.retry_after(error) or pause)
                pause = min(2.0, pause * 2)

    def _unreachable(self, error: Exception) -> SandboxError:
        if failures.is_definite(error):
            return failures.refused(error)
        return SandboxLost(
            f"sandbox {self.id} is said to run and does not answer ({error}): it may have run out of memory"
        )

    def _ensure_there(self, error: Exception) -> None:
        """Raise SandboxLost unless the sandbox still runs, as far as can be known."""
        try:
            found = find(self.id)
        except (daytona.DaytonaError, CommandTimeout):
            return  # no connection: it may come back
        if found is None:
            self._destroyed = True
            raise SandboxLost(f"sandbox {self.id} was destroyed") from error
        if state(found) != "started":
            why = f": {found.error_reason}" if found.error_reason else ""
            raise SandboxLost(f"sandbox {self.id} is {state(found)}{why}") from error

    def _extend(self) -> None:
        """Put off Daytona's own end of the sandbox; that the next call does it, too, is soon enough."""
        if self._extends and time.monotonic() - self._extended > EXTEND_EVERY:
            self._extended = time.monotonic()
            with contextlib.suppress(daytona.DaytonaError, CommandTimeout):
                call(lambda: self._sandbox.set_ttl(TTL, QUICK), QUICK)


class _Unanswered(Exception):
    """A program of ours that ran and gave no answer."""


def _answer(code: int | None, said: str) -> bytes:
    mark = MARK.decode()
    before, _, rest = said.rpartition(mark)
    text = before.rpartition(mark)[2]
    if code == 0 and rest is not said:
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(text, validate=True)
    if code in MISSING:
        raise UnsupportedOption(f"the image has no {PYTHON} to run commands with ({said.strip()[-300:]})")
    if code == UNREACHABLE:
        raise SandboxLost(
            f"what holds the command in the sandbox was ended there ({said.strip()[-300:]}): the step may "
            "have killed it, or run out of memory"
        )
    if code == 1:
        raise StartFailed(f"{PYTHON} of the image does not run commands: {said.strip()[-500:]}")
    raise _Unanswered(f"exit code {code}: {said[-300:]}")
