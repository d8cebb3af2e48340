"""Walls: mounts, networks, and what a sandbox must not see of its host."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ...backends.interface import Backend, Feature, Mount, Sandbox
from ...errors import SandboxError
from .base import ContractBase, Result

_INSIDE = PurePosixPath("/mnt/contract")
_CONNECT = """
import os, socket, sys
family, address = sys.argv[1:3]
where = (address, int(sys.argv[3])) if family == "AF_INET" else address.replace("@", chr(0))
try:
    peer = socket.socket(getattr(socket, family))
    peer.settimeout(5)
    peer.connect(where)
    os.write(1, peer.recv(99))
except OSError:
    os.write(1, b"refused")
"""


class Listener:
    """A server on the host that says welcome, and counts."""

    def __init__(self, family: socket.AddressFamily, address: str | tuple[str, int]) -> None:
        self.accepted = 0
        self._socket = socket.socket(family)
        self._socket.bind(address)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the thread in accept().
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            with peer:
                peer.sendall(b"welcome")


class WallsContract(ContractBase):
    """Inside is what was given, and nothing else."""

    def test_read_only_mount(self, backend: Backend, tmp_path: Path) -> None:
        """A read-only mount must be readable, and not writable by any trick of an owner."""
        self.needs(Feature.MOUNT)
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "file").write_bytes(b"given")
        code = """
        import os, sys
        os.write(1, open(sys.argv[1] + "/deep/file", "rb").read())
        def write(): open(sys.argv[1] + "/deep/file", "wb")
        def make(): open(sys.argv[1] + "/new", "wb")
        def remove(): os.unlink(sys.argv[1] + "/deep/file")
        def loosen(): os.chmod(sys.argv[1] + "/deep", 0o777)
        for attempt in (write, make, remove, loosen):
            try:
                attempt()
                os.write(1, attempt.__name__.encode())
            except OSError:
                pass
        """
        with self._opened(backend, mounts=[Mount(tmp_path, _INSIDE)]) as sandbox:
            assert self.run(sandbox, code, str(_INSIDE)) == Result(0, b"given", b"")
        assert (tmp_path / "deep" / "file").read_bytes() == b"given"

    def test_writable_mount_is_seen_on_the_host(self, backend: Backend, tmp_path: Path) -> None:
        """Writes to a copy, or files that the launcher can't read or remove, are lost results."""
        self.needs(Feature.MOUNT)
        code = "import sys; open(sys.argv[1] + '/file', 'wb').write(b'from inside')"
        with self._opened(backend, mounts=[Mount(tmp_path, _INSIDE, read_only=False)]) as sandbox:
            assert self.run(sandbox, code, str(_INSIDE)) == Result(0, b"", b"")
            assert (tmp_path / "file").read_bytes() == b"from inside"
        (tmp_path / "file").unlink()

    @pytest.mark.parametrize("name", ["a b", "ü😀", "--bind", "a:b,c=d"])
    def test_mount_of_one_file_by_any_name(self, backend: Backend, tmp_path: Path, name: str) -> None:
        """A name that an option list takes apart mounts something else."""
        self.needs(Feature.MOUNT)
        (tmp_path / name).write_bytes(b"one file")
        (tmp_path / "other").write_bytes(b"not given")
        code = """
        import os, sys
        os.write(1, open(sys.argv[1], "rb").read())
        os.write(1, b"%d" % len(os.listdir(os.path.dirname(sys.argv[1]))))
        """
        with self._opened(backend, mounts=[Mount(tmp_path / name, _INSIDE / name)]) as sandbox:
            assert self.run(sandbox, code, str(_INSIDE / name)) == Result(0, b"one file1", b"")

    def test_mounted_socket_is_connected_to(self, backend: Backend) -> None:
        """A relay's socket that is only looked at, or lives in another kernel, connects nothing."""
        self.needs(Feature.MOUNT)
        path = Path(tempfile.gettempdir(), "s")
        mounts = [Mount(path, _INSIDE / "s")]
        with Listener(socket.AF_UNIX, str(path)) as listener, self._opened(backend, mounts=mounts) as sandbox:
            result = self.run(sandbox, _CONNECT, "AF_UNIX", str(_INSIDE / "s"))
        path.unlink()
        assert (result, listener.accepted) == (Result(0, b"welcome", b""), 1)

    def test_missing_mount_source_fails(self, backend: Backend, tmp_path: Path) -> None:
        """An empty directory in place of what was asked for makes a step compute nothing."""
        self.needs(Feature.MOUNT)
        mounts = [Mount(tmp_path / "absent", _INSIDE)]
        refused = pytest.raises((FileNotFoundError, SandboxError))
        with refused, self._opened(backend, mounts=mounts) as sandbox:
            sandbox.start(self.command(""))
        assert not list(backend.list({"contract": self.label}))

    def test_network_none_cuts_the_hosts_loopback(self, backend: Backend) -> None:
        """A service on the launcher's 127.0.0.1 trusts whoever reaches it."""
        self.needs(Feature.NETWORK_OFF)
        assert self._reach(backend, "none") == (Result(0, b"refused", b""), 0)

    def test_network_host_reaches_the_hosts_loopback(self, backend: Backend) -> None:
        """A shared network that is not shared breaks what asked for it."""
        self.needs(Feature.NETWORK_HOST)
        assert self._reach(backend, "host") == (Result(0, b"welcome", b""), 1)

    def test_network_public_does_not_reach_the_hosts_loopback(self, backend: Backend) -> None:
        """The public internet is not the launcher's own services."""
        self.needs(Feature.NETWORK_PUBLIC)
        assert self._reach(backend, "public") == (Result(0, b"refused", b""), 0)

    def test_network_none_cuts_abstract_sockets(self, backend: Backend) -> None:
        """Abstract unix sockets belong to the network, not to the file system: session buses listen there."""
        self.needs(Feature.NETWORK_OFF)
        if not sys.platform.startswith("linux"):
            pytest.skip("abstract sockets are Linux's")
        name = f"contract-{secrets.token_hex(8)}"
        listening = Listener(socket.AF_UNIX, "\0" + name)
        with listening as listener, self._opened(backend, network="none") as sandbox:
            result = self.run(sandbox, _CONNECT, "AF_UNIX", "@" + name)
        assert (result, listener.accepted) == (Result(0, b"refused", b""), 0)

    def test_files_of_the_host_are_not_seen(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A host's file system inside, read-only or not, is every key on it."""
        secret = tmp_path / "secret"
        secret.write_bytes(b"of the host")
        secret.chmod(0o644)
        result = self.run(
            sandbox, "import os, sys; os.write(1, b'%d' % os.path.exists(sys.argv[1]))", str(secret)
        )
        assert result == Result(0, b"0", b"")

    def test_processes_of_the_host_are_not_seen(self, sandbox: Sandbox) -> None:
        """What sees a process can read its command line, signal it and trace it."""
        mark = secrets.token_hex(16)
        with subprocess.Popen(
            [sys.executable, "-c", "input()", mark], stdin=subprocess.PIPE, env={}
        ) as outside:
            try:
                code = """
                import glob, os
                for path in glob.glob("/proc/[0-9]*/cmdline"):
                    try:
                        os.write(1, open(path, "rb").read() + b"|")
                    except OSError:
                        pass
                """
                result = self.run(sandbox, code)
            finally:
                outside.communicate(b"\n")
        assert (result.code, result.stderr) == (0, b"")
        assert b"/proc/[0-9]*/cmdline" in result.stdout
        assert mark.encode() not in result.stdout

    def test_environment_of_the_launcher_is_in_no_process(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process that made the sandbox is process 1 in it, with an environment to read."""
        mark = secrets.token_hex(16)
        monkeypatch.setenv("CONTRACT_CANARY", mark)
        code = """
        import glob, os
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                os.write(1, open(path, "rb").read() + b"|")
            except OSError:
                pass
        """
        with self._opened(backend) as sandbox:
            result = self.run(sandbox, code)
        assert (result.code, result.stderr) == (0, b"")
        assert b"TMPDIR=" in result.stdout
        assert mark.encode() not in result.stdout

    def test_descriptors_of_the_launcher_are_not_inherited(self, backend: Backend, tmp_path: Path) -> None:
        """An open file, socket or pipe of the launcher goes through every wall."""
        (tmp_path / "secret").write_bytes(b"of the host")
        code = """
        import json, os
        for number in os.listdir("/proc/self/fd"):
            if int(number) > 2:
                try:
                    where = os.readlink("/proc/self/fd/" + number)
                except OSError:
                    continue
                if not where.startswith("/proc/"):
                    os.write(1, where.encode() + b"|")
        """
        with (tmp_path / "secret").open("rb") as file:
            os.set_inheritable(file.fileno(), True)
            with self._opened(backend) as sandbox:
                result = self.run(sandbox, code)
        assert result == Result(0, b"", b"")

    def test_there_is_no_terminal(self, sandbox: Sandbox) -> None:
        """Characters pushed into the launcher's terminal are typed into its shell."""
        code = """
        import os
        try:
            os.open("/dev/tty", os.O_RDWR)
            os.write(1, b"opened")
        except OSError:
            os.write(1, b"none")
        os.write(1, b"%d" % any(os.isatty(stream) for stream in (0, 1, 2)))
        """
        assert self.run(sandbox, code) == Result(0, b"none0", b"")

    @contextlib.contextmanager
    def _opened(self, backend: Backend, **changes: Any) -> Iterator[Sandbox]:
        sandbox = backend.open(self.make_spec(**changes))
        try:
            yield sandbox
        finally:
            self.within(sandbox.close)

    def _reach(self, backend: Backend, network: str) -> tuple[Result, int]:
        """Try a server on the host's loopback: what the command got, and how often it was reached."""
        listening = Listener(socket.AF_INET, ("127.0.0.1", 0))
        with listening as listener, self._opened(backend, network=network) as sandbox:
            result = self.run(sandbox, _CONNECT, "AF_INET", "127.0.0.1", str(listener.port))
        return result, listener.accepted
