"""Files: put in before a command, got out after it, and no link is a way around the wall."""

from __future__ import annotations

import contextlib
import functools
import io
import tarfile
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import cast

import pytest

from ...backends.interface import Backend, Feature, FileSandbox, Layer, Sandbox
from ...errors import SandboxError
from .base import ContractBase, Result
from .streams import pattern
from .trees import KILLED

_PLACE = PurePosixPath("/tmp/contract")
_CAT = "import os, sys; os.write(1, open(sys.argv[1], 'rb').read())"
_REFUSALS = (SandboxError, OSError, ValueError)


class FilesContract(ContractBase):
    """Copies are exact, and stay where they were sent."""

    @pytest.mark.parametrize(
        "data", [b"", bytes(range(256)) * 3, pattern(1 << 20)], ids=["empty", "bytes", "1 MiB"]
    )
    def test_put_bytes_are_exact(self, sandbox: Sandbox, tmp_path: Path, data: bytes) -> None:
        """A copy through a shell, text or base64 in lines loses bytes, or the empty file."""
        source = tmp_path / "source"
        source.write_bytes(data)
        sandbox.put(source, _PLACE / "file")
        assert self.run(sandbox, _CAT, str(_PLACE / "file")) == Result(0, data, b"")

    def test_a_layer_is_there_from_the_start(self, backend: Backend, tmp_path: Path) -> None:
        """Guards packages that become part of what sandboxes are made from: in all of those, in no others."""
        self.needs(Feature.LAYERS)
        key = self.label
        with tarfile.open(tmp_path / f"{key}.tar.gz", "w:gz") as archive:
            for name in ("env/file", f"/opt/contract-{key}/absolute"):
                member = tarfile.TarInfo()
                member.name, member.size = name, len(key)
                archive.addfile(member, io.BytesIO(key.encode()))
        place = PurePosixPath("/opt/contract") / key
        layer = Layer(key, tmp_path / f"{key}.tar.gz", place)
        for path in (place / "env/file", f"/opt/contract-{key}/absolute"):
            sandbox = backend.open(self.make_spec(layer=layer))
            try:
                assert self.run(sandbox, _CAT, str(path)) == Result(0, key.encode(), b"")
                assert self.run(
                    sandbox, "import os, sys; print(os.listdir(sys.argv[1]))", str(place)
                ) == Result(0, b"['env']\n", b"")
            finally:
                self.within(sandbox.close)
        other = backend.open(self.make_spec())
        try:
            assert self.run(other, _CAT, str(place / "env/file")).code == 1
        finally:
            self.within(other.close)

    @pytest.mark.parametrize("name", ["ü😀", "a b", "-rf", "$HOME", "a'b\"c", "a:b,c=d", "a/b/c/d"])
    def test_put_name_is_not_interpreted(self, sandbox: Sandbox, tmp_path: Path, name: str) -> None:
        """A name that a shell or an option list takes apart lands elsewhere; its directories must be made."""
        source = tmp_path / "source"
        source.write_bytes(b"here")
        sandbox.put(source, _PLACE / name)
        assert self.run(sandbox, _CAT, str(_PLACE / name)) == Result(0, b"here", b"")

    def test_put_file_is_readable_inside(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A private file of the launcher's user must be readable by the command's, whoever that is."""
        source = tmp_path / "source"
        source.write_bytes(b"private")
        source.chmod(0o600)
        sandbox.put(source, _PLACE / "file")
        assert self.run(sandbox, _CAT, str(_PLACE / "file")) == Result(0, b"private", b"")

    def test_put_several_and_again(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """The second file in a directory must not hide the first, and a second put replaces."""
        for name, data in (("a", b"1"), ("b", b"2"), ("a", b"3")):
            source = tmp_path / "source"
            source.write_bytes(data)
            sandbox.put(source, _PLACE / name)
        results = [self.run(sandbox, _CAT, str(_PLACE / name)) for name in ("a", "b")]
        assert results == [Result(0, b"3", b""), Result(0, b"2", b"")]

    def test_put_is_a_copy(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """What is shared instead of copied changes on one side when the other writes."""
        source = tmp_path / "source"
        source.write_bytes(b"before")
        sandbox.put(source, _PLACE / "file")
        source.write_bytes(b"after!")
        code = """
        import os, sys
        os.write(1, open(sys.argv[1], "rb").read())
        try:
            open(sys.argv[1], "wb").write(b"inside")
        except OSError:
            pass
        """
        assert self.run(sandbox, code, str(_PLACE / "file")) == Result(0, b"before", b"")
        assert source.read_bytes() == b"after!"

    def test_put_of_a_missing_file(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """The launcher's own mistake is a built-in error, not a provider's failure."""
        with pytest.raises(FileNotFoundError):
            sandbox.put(tmp_path / "absent", _PLACE / "file")
        assert self.run(sandbox, "import os; os.write(1, b'next')").stdout == b"next"

    @pytest.mark.parametrize(
        "target", ["file", "../file", "/tmp/../etc/file", "/tmp/contract/..", "/tmp/a\0b", "/"]
    )
    def test_put_to_a_doubtful_target_is_refused(self, sandbox: Sandbox, tmp_path: Path, target: str) -> None:
        """A target that climbs or depends on a directory lands where nobody meant it."""
        source = tmp_path / "source"
        source.write_bytes(b"x")
        with pytest.raises((SandboxError, ValueError)):
            sandbox.put(source, PurePosixPath(target))
        assert self.run(sandbox, "import os; os.write(1, b'next')").stdout == b"next"

    def test_put_does_not_follow_a_planted_link(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A directory that a command replaced by a link must not lead the launcher's copy onto the host."""
        source, canary = tmp_path / "source", tmp_path / "canary"
        source.write_bytes(b"x")
        canary.mkdir()
        code = "import os, sys; os.symlink(sys.argv[1], 'link'); os.write(1, os.fsencode(os.getcwd()))"
        where = self.run(sandbox, code, str(canary)).stdout.decode()
        with contextlib.suppress(*_REFUSALS):
            sandbox.put(source, PurePosixPath(where, "link", "file"))
        with contextlib.suppress(*_REFUSALS):
            sandbox.put(source, PurePosixPath(where, "link"))
        assert list(canary.iterdir()) == []

    def test_get_bytes_are_exact(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A copy out must be what the command wrote, also after it ended."""
        self.needs(Feature.GET)
        code = """
        import os
        data = (bytes(range(251)) * 5000)[:1 << 20]
        for name, data in (("large", data), ("empty", b""), ("\\u00fc -x", bytes(range(256)))):
            with open(name, "wb") as file:
                file.write(data)
        os.write(1, os.fsencode(os.getcwd()))
        """
        where = PurePosixPath(self.run(sandbox, code).stdout.decode())
        for name, data in (("large", pattern(1 << 20)), ("empty", b""), ("ü -x", bytes(range(256)))):
            sandbox.get(where / name, tmp_path / "target")
            assert (tmp_path / "target").read_bytes() == data

    @pytest.mark.parametrize("size", [1, 5 << 20])
    def test_read_bytes_are_exact(self, sandbox: Sandbox, size: int) -> None:
        """What the relay reads must be what the guest wrote, also while a command runs."""
        self.needs(Feature.FILES)
        code = """
        import os, sys, time
        with open("\u00fc -x", "wb") as file:
            file.write((bytes(range(251)) * 21_000)[:int(sys.argv[1])])
        os.write(1, os.fsencode(os.getcwd()) + b"|")
        time.sleep(600)
        """
        process = sandbox.start(self.command(code, str(size)))
        reader = self.follow(process)
        reader.until(b"|")
        source = PurePosixPath(reader.stdout.decode().strip("|"), "ü -x")
        assert self.within(lambda: _read(sandbox, source)) == pattern(size)
        given_up = cast("FileSandbox", sandbox).read(source)
        next(given_up)
        cast("Generator[bytes]", given_up).close()
        self.within(process.kill)
        assert reader.rest().code == KILLED

    def test_read_of_what_is_not_there(self, sandbox: Sandbox) -> None:
        """A guest may name what it likes; after the sandbox's end there is nothing to read."""
        self.needs(Feature.FILES)
        for name, kinds in (("absent", FileNotFoundError), ("", (FileNotFoundError, SandboxError))):
            with pytest.raises(kinds):
                self.within(functools.partial(_read, sandbox, _PLACE / name))
        sandbox.close()
        with pytest.raises(SandboxError):
            _read(sandbox, _PLACE / "absent")

    def test_get_while_the_command_runs(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A transport over polled files reads them while the command is at work."""
        self.needs(Feature.GET)
        code = """
        import os, time
        with open("file", "wb") as file:
            file.write(b"now")
        os.write(1, os.fsencode(os.getcwd()) + b"|")
        time.sleep(600)
        """
        process = sandbox.start(self.command(code))
        reader = self.follow(process)
        reader.until(b"|")
        sandbox.get(PurePosixPath(reader.stdout.decode().strip("|"), "file"), tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"now"
        self.within(process.kill)
        assert reader.rest().code == KILLED

    def test_get_of_a_missing_file(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """A missing result is a built-in error, and leaves no empty file behind."""
        self.needs(Feature.GET)
        with pytest.raises(FileNotFoundError):
            sandbox.get(_PLACE / "absent", tmp_path / "target")
        assert not (tmp_path / "target").exists()

    @pytest.mark.parametrize("kind", ["link", "dangling", "through", "directory", "fifo", "device", "socket"])
    def test_get_of_no_regular_file_is_refused(self, sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
        """A link leads to the host's files, a FIFO blocks the launcher, and a device never ends."""
        self.needs(Feature.GET)
        (tmp_path / "secret").write_bytes(b"of the host")
        code = """
        import os, socket, sys
        open("file", "wb").close()
        os.symlink("file", "link")
        os.symlink(os.path.join(sys.argv[1], "secret"), "dangling")
        os.symlink(sys.argv[1], "through")
        os.mkdir("directory")
        os.mkfifo("fifo")
        socket.socket(socket.AF_UNIX).bind("socket")
        os.write(1, os.fsencode(os.getcwd()))
        """
        result = self.run(sandbox, code, str(tmp_path))
        assert (result.code, result.stderr) == (0, b"")
        names = {"through": "through/secret", "device": "/dev/zero"}
        source = PurePosixPath(result.stdout.decode(), names.get(kind, kind))
        with pytest.raises(_REFUSALS):
            self.within(lambda: sandbox.get(source, tmp_path / "target"))
        assert not (tmp_path / "target").exists()

    def test_files_last_as_long_as_the_sandbox(self, sandbox: Sandbox) -> None:
        """Where files can be got after a command, the next command sees them too."""
        self.needs(Feature.GET)
        assert self.run(sandbox, "open('kept', 'w').write('1')").code == 0
        assert self.run(sandbox, _CAT, "kept") == Result(0, b"1", b"")


def _read(sandbox: Sandbox, source: PurePosixPath) -> bytes:
    return b"".join(cast("FileSandbox", sandbox).read(source))
