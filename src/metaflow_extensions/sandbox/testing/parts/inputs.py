"""Standard input: exact, ended, and never somebody else's."""

from __future__ import annotations

import contextlib
import hashlib

from ...backends.interface import Feature, Sandbox
from ...errors import SandboxError
from .base import ContractBase, Result
from .streams import pattern

_MIB = 1 << 20
_ECHO = """
import os
while True:
    data = os.read(0, 65536)
    if not data:
        break
    while data:
        data = data[os.write(1, data):]
"""


class InputsContract(ContractBase):
    """What is sent is what is read."""

    def test_without_stdin_the_command_reads_its_end(self, sandbox: Sandbox) -> None:
        """A command that inherits the launcher's standard input hangs, or eats what was meant for another."""
        assert self.run(sandbox, "import os; os.write(1, b'%d' % len(os.read(0, 9)))") == Result(0, b"0", b"")

    def test_stdin_bytes_are_exact(self, sandbox: Sandbox) -> None:
        """A terminal or a text layer in between changes NUL, control characters and line ends."""
        self.needs(Feature.STDIN)
        process = sandbox.start(self.command(_ECHO, stdin=True))
        data = bytes(range(256)) + bytes.fromhex("000d0a0a04031a1bff")
        process.send(data)
        process.send(b"")
        assert self.collect(process) == Result(0, data, b"")

    def test_stdin_is_not_echoed(self, sandbox: Sandbox) -> None:
        """A terminal in between writes what it reads."""
        self.needs(Feature.STDIN)
        process = sandbox.start(
            self.command("import os; os.write(1, b'%d' % len(os.read(0, 99)))", stdin=True)
        )
        process.send(b"secret\n")
        process.send(b"")
        assert self.collect(process) == Result(0, b"7", b"")

    def test_end_of_stdin_arrives(self, sandbox: Sandbox) -> None:
        """A command that reads to the end hangs when the end isn't passed on."""
        self.needs(Feature.STDIN)
        process = sandbox.start(
            self.command("import os; os.write(1, b'%d' % len(os.read(0, 9)))", stdin=True)
        )
        process.send(b"")
        assert self.collect(process) == Result(0, b"0", b"")

    def test_large_stdin(self, sandbox: Sandbox) -> None:
        """A short write that isn't continued loses the rest."""
        self.needs(Feature.STDIN)
        code = """
        import hashlib, os
        digest, size = hashlib.sha256(), 0
        while True:
            data = os.read(0, 100000)
            if not data:
                break
            digest.update(data)
            size += len(data)
        os.write(1, b"%d %s" % (size, digest.hexdigest().encode()))
        """
        process = sandbox.start(self.command(code, stdin=True))
        data = pattern(4 * _MIB)

        def feed() -> None:
            process.send(data)
            process.send(b"")

        feeding = self.background(feed)
        expected = b"%d %s" % (len(data), hashlib.sha256(data).hexdigest().encode())
        assert self.collect(process) == Result(0, expected, b"")
        assert feeding.result() is None

    def test_both_directions_at_once(self, sandbox: Sandbox) -> None:
        """A frame protocol over both streams dies of a deadlock when one direction blocks the other."""
        self.needs(Feature.STDIN)
        process = sandbox.start(self.command(_ECHO, stdin=True))
        data = pattern(4 * _MIB)

        def feed() -> None:
            for at in range(0, len(data), 70_000):
                process.send(data[at : at + 70_000])
            process.send(b"")

        feeding = self.background(feed)
        result = self.collect(process)
        assert (result.code, len(result.stdout), result.stdout == data) == (0, len(data), True)
        assert feeding.result() is None

    def test_sending_to_an_ended_command_is_harmless(self, sandbox: Sandbox) -> None:
        """A broken pipe must neither hang, nor kill the launcher, nor change how the command ended."""
        self.needs(Feature.STDIN)
        process = sandbox.start(self.command("import os; os._exit(8)", stdin=True))
        assert self.within(process.wait) == 8

        def send() -> None:
            with contextlib.suppress(BrokenPipeError, SandboxError):
                process.send(b"x" * _MIB)
                process.send(b"")

        self.within(send)
        assert self.collect(process) == Result(8, b"", b"")

    def test_kill_frees_a_blocked_sender(self, sandbox: Sandbox) -> None:
        """A thread that writes to a command which reads nothing must not hang once it is killed."""
        self.needs(Feature.STDIN)
        process = sandbox.start(
            self.command("import os, time; os.write(1, b'up'); time.sleep(600)", stdin=True)
        )
        reader = self.follow(process)
        reader.until(b"up")

        def send() -> bool:
            with contextlib.suppress(BrokenPipeError, SandboxError):
                for _ in range(64):
                    process.send(b"x" * _MIB)
            return True

        sending = self.background(send)
        self.within(process.kill)
        assert sending.result()
        assert reader.rest().stdout == b"up"
