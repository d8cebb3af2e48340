"""One command in a nitrobox sandbox of its own, made and kept by a thread of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nitrobox import Sandbox, SandboxConfig

from ...errors import StartFailed
from ..inner_process import InnerProcess

WAIT = 30.0  # seconds for the loader to say that it is there


class NitroboxProcess(InnerProcess):
    """A running command; nitrobox ends a sandbox with the thread that made it."""

    def __init__(
        self,
        config: SandboxConfig,
        name: str,
        entry: str,
        job: Mapping[str, Any],
        socket_path: Path,
        *,
        stdin: bool,
        started: Callable[[Sequence[int]], None],
        lost: Callable[[], str | None],
    ) -> None:
        super().__init__(lost)
        self._started = started
        self._pid = -1
        self._own: list[int] = []
        self._over, over = os.pipe()
        self._keeper = threading.Thread(target=self._keep, args=(config, name, entry, over), daemon=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(socket_path))
            listener.listen(1)
            self._keeper.start()
            channel = self._await_loader(listener)
        socket_path.unlink()
        self._hand_over(channel, job, stdin=stdin)
        self._follow(channel)

    def _keep(self, config: SandboxConfig, name: str, entry: str, over: int) -> None:
        try:
            box = Sandbox(config, name=name)
            try:
                self._pid = int(Path(config.env_base_dir, name, ".pid").read_text())
                # nitrobox's own and the sandbox's first: it forks before anybody can limit it.
                self._own = list(descendants(self._pid))
                self._started(self._own)
                # Not nitrobox's descriptor 6, through which a command could say how it ended.
                box.run(f"python3 -I -S {entry} 6>&-")
            finally:
                box.delete()
                self._bury()
        except Exception as error:  # noqa: BLE001 -- nitrobox's own errors have no common class
            self._failure = error
        finally:
            os.close(over)

    def _await_loader(self, listener: socket.socket) -> socket.socket:
        ready = select.select([listener.fileno(), self._over], [], [], WAIT)[0]
        if listener.fileno() in ready:
            return listener.accept()[0]
        self._kill_first()
        self._keeper.join()
        os.close(self._over)
        reason = self._failure or "python3 did not run in it"
        raise StartFailed(
            f"nitrobox did not start the sandbox: {reason}; image= names a directory or a reference with a "
            "Python in it"
        ) from (reason if isinstance(reason, Exception) else None)

    def _await_rest(self) -> None:
        # The sandbox ends with its first program: then nothing of the command's runs any more.
        self._keeper.join()
        os.close(self._over)

    def _bury(self) -> None:
        """Wait for the sandbox's first process: orphaned, it may have become a child of this one."""
        for pid in self._own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _kill_first(self) -> None:
        if self._pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)


def descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from descendants(int(child))
