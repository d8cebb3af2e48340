"""One sandbox: for each command a pybox container with the same view."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

from ..container_places import DISK, WORK, variables
from ..interface import Command, SandboxSpec
from ..local_sandbox import LocalSandbox
from ..local_state import LocalState
from ..seccomp import filter_program
from ..warden import Warden
from . import loader
from .process import GO, PyboxProcess, start_apart
from .program import complaint, environment, store, words


class PyboxSandbox(LocalSandbox):
    """Commands see copies of the files that were put."""

    def __init__(self, image: str, spec: SandboxSpec, state: LocalState, warden: Warden) -> None:
        self._image = image
        self._root = state.directory / "pybox"
        super().__init__(spec, state, warden)

    def ensure_image(self) -> None:
        """Pull the image the first time; two that pull it at once break each other's.

        Raises UnsupportedOption when there is none, StartFailed when it can't be had now.
        """
        self._root.mkdir()
        store().mkdir(parents=True, exist_ok=True)
        (self._root / "images").symlink_to(store())
        mark = store() / f"metaflow-sandbox-{hashlib.sha256(self._image.encode()).hexdigest()[:16]}"
        with mark.open("a") as pulled:
            fcntl.flock(pulled, fcntl.LOCK_EX)
            # Looked at under the lock: where the file ended when it was opened says nothing.
            if not mark.stat().st_size:
                self._pull()
                pulled.write(self._image)

    def _pull(self) -> None:
        tell = self._spec.tell or (lambda _line: None)
        tell(f"pybox pulls image {self._image}, unless it is there")
        log = self._state.directory / "pull.log"
        with start_apart(
            words("pull", "--", self._image), environment(self._root), log, subprocess.PIPE
        ) as pulling:
            try:
                self._started([pulling.pid], [])
                pulling.communicate(GO)
            except BaseException:
                pulling.kill()
                raise
        self._state.forget(pulling.pid)
        if pulling.returncode:
            raise complaint(self._image, log, pulling.returncode)
        tell(f"image {self._image} is there")

    def _start(self, command: Command, number: int) -> PyboxProcess:
        files = list(self._files.items())
        job = {
            "argv": list(command.argv),
            "env": variables(command),
            "cwd": str(command.cwd or WORK),
            "disk": self._spec.disk or DISK,
            "filter": filter_program().hex(),
            "files": [
                (str(target), copy.stat().st_size, copy.stat().st_mode & 0o777) for target, copy in files
            ],
        }
        program = Path(loader.__file__).read_text()
        run = ("run", f"--image={self._image}", f"--name={self.id}-{number}", "--")
        return PyboxProcess(
            self._image,
            words(*run, "python3", "-I", "-S", "-c", program),
            environment(self._root),
            self._state.directory / f"run{number}.log",
            job,
            [copy for _, copy in files],
            stdin=command.stdin,
            started=self._started,
            lost=self._lifetime.why_lost,
        )

    def _clean_up(self) -> None:
        """Nothing: pybox mounts in namespaces that end with their container."""
