"""The scheduler's side of the supervisor: start it, tell it of tasks, let it go."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import StartFailed
from ..supervisor import protocol, run_directories
from ..supervisor.protocol import CodeSettings, RunSettings, TaskSettings
from ..supervisor.reaper import clean
from .code_package import CodeTooLarge

SUPERVISOR = Path(protocol.__file__).with_name("main.py")
SHIM = Path(protocol.__file__).with_name("shim.py")
CLOSE_WAIT = 25.0  # seconds for the supervisor and its reaper, which are bounded themselves


class SupervisorLink:
    """One run's supervisor; started again when it was killed, for the tasks that follow."""

    def __init__(
        self, settings: Callable[[str, int], RunSettings], copy_code: Callable[[Path], None]
    ) -> None:
        self._settings = settings
        self._copy_code = copy_code
        self._lock = threading.Lock()
        self._lifeline = -1
        self._process: subprocess.Popen[bytes]
        self._copier: threading.Thread
        self._start()

    def entrypoint(self, task: TaskSettings) -> list[str]:
        """Tell the supervisor of a task; the start of the command line that runs it."""
        line = protocol.encode(task)
        try:
            self._send(line)
        except BrokenPipeError:
            self.close()
            self._start()
            self._send(line)
        return [sys.executable, "-I", "-S", str(SHIM), str(self._socket_path), task.identity.key]

    def close(self) -> None:
        """End the run: the supervisor ends what still runs, and cleans up; idempotent."""
        with self._lock:
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
        # Not wait(CLOSE_WAIT), which looks only every 50 ms.
        deadline = threading.Timer(CLOSE_WAIT, self._kill)
        deadline.start()
        try:
            self._process.wait()
        finally:
            deadline.cancel()
        self._copier.join()
        # What the reaper does, unless it was killed.
        clean(self._directory)

    def _kill(self) -> None:
        # The reaper hangs, too: it leads the group of both.
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _start(self) -> None:
        try:
            self._start_process()
        except OSError as error:
            raise StartFailed(
                f"The supervisor of this run's sandboxes cannot be started: {error}. It needs a writable "
                "temporary directory with some free space: set TMPDIR"
            ) from error
        self._copier = threading.Thread(target=self._copy, args=(self._directory / "code",), daemon=True)
        self._copier.start()

    def _start_process(self) -> None:
        self._directory = run_directories.make()
        try:
            settings = self._start_in_directory()
        except BaseException:
            shutil.rmtree(self._directory)
            raise
        # From here on the supervisor removes it, whatever happens.
        self._send(settings)

    def _start_in_directory(self) -> bytes:
        self._socket_path = self._directory / run_directories.CONTROL
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.bind(str(self._socket_path))
            control.listen(128)
            settings = protocol.encode(self._settings(str(self._directory), control.fileno()))
            reader, self._lifeline = os.pipe()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", str(SUPERVISOR), str(self._directory)],
                    stdin=reader,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(control.fileno(),),
                    # Ctrl-C is for the tasks: the supervisor outlives them to clean up.
                    start_new_session=True,
                )
            finally:
                os.close(reader)
        return settings

    def _copy(self, target: Path) -> None:
        error = None
        try:
            self._copy_code(target)
        except CodeTooLarge as failure:
            error = str(failure)
        except Exception as failure:  # noqa: BLE001 -- Metaflow's own packaging; the tasks that wait are told
            error = f"The flow's code cannot be copied: {type(failure).__name__}: {failure}"
        try:
            self._send(protocol.encode(CodeSettings(str(target), error)))
        except BrokenPipeError:
            return  # the supervisor is gone: whoever sends the next task finds out

    def _send(self, line: bytes) -> None:
        with self._lock:
            if self._lifeline < 0:
                raise BrokenPipeError
            view = memoryview(line)
            while view:
                view = view[os.write(self._lifeline, view) :]
