"""Output: every byte, once, on its own stream, as it is written."""

from __future__ import annotations

import time

from ...backends.interface import Backend, Feature, Sandbox, Stream
from .base import ContractBase, Result

_MIB = 1 << 20


def pattern(size: int) -> bytes:
    """Bytes whose loss or exchange shows: the period is prime, so that it fits no buffer."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class StreamsContract(ContractBase):
    """What is read is what was written."""

    def test_bytes_arrive_exactly_and_apart(self, sandbox: Sandbox) -> None:
        """Decoding, newline translation or a merged stream changes bytes; octal escapes show it."""
        code = r"""
        import os
        os.write(1, b"\000\001\015\012\012\033[0m\200\377\303\050\302\205\342\200\250")
        os.write(2, b"\376\377\000err\015")
        """
        stdout = bytes.fromhex("00010d0a0a1b5b306d80ffc328c285e280a8")
        assert self.run(sandbox, code) == Result(0, stdout, bytes.fromhex("feff006572720d"))

    def test_all_byte_values_survive(self, sandbox: Sandbox) -> None:
        """A terminal in between swallows control characters or adds carriage returns."""
        result = self.run(sandbox, "import os; os.write(1, bytes(range(256)) * 3)")
        assert result == Result(0, bytes(range(256)) * 3, b"")

    def test_split_characters_are_not_decoded(self, sandbox: Sandbox) -> None:
        """A multi-byte character written in two parts breaks a reader that decodes each chunk."""
        code = r"""
        import os, time
        for part in (b"\342", b"\202", b"\254\360\237", b"\230\200"):
            os.write(1, part)
            time.sleep(0.05)
        """
        assert self.run(sandbox, code) == Result(0, bytes.fromhex("e282acf09f9880"), b"")

    def test_large_output_with_a_slow_consumer(self, sandbox: Sandbox) -> None:
        """A full pipe, an unread second stream or a dropped chunk loses data or hangs."""
        code = """
        import os, sys
        data = (bytes(range(251)) * (int(sys.argv[1]) // 251 + 1))[:int(sys.argv[1])]
        for at in range(0, len(data), 100000):
            for stream in (1, 2):
                rest = data[at:at + 100000]
                while rest:
                    rest = rest[os.write(stream, rest):]
        """
        process = sandbox.start(self.command(code, str(8 * _MIB)))
        reader = self.follow(process)
        for _ in range(10):
            reader.chunk()
            time.sleep(0.02)
        result = reader.rest()
        assert (result.code, len(result.stdout), len(result.stderr)) == (0, 8 * _MIB, 8 * _MIB)
        assert result.stdout == pattern(8 * _MIB)
        assert result.stderr == pattern(8 * _MIB)

    def test_output_arrives_while_the_command_runs(self, sandbox: Sandbox) -> None:
        """Output kept back until the end makes a long step look hung."""
        code = "import os, time; os.write(1, b'early'); time.sleep(600)"
        process = sandbox.start(self.command(code))
        reader = self.follow(process)
        reader.until(b"early")
        self.within(process.kill)
        assert reader.rest().stdout == b"early"

    def test_order_between_the_streams(self, sandbox: Sandbox) -> None:
        """One stream collected after the other tears a traceback from the line before it."""
        self.needs(Feature.STDIN)
        code = """
        import os
        for turn in range(6):
            os.write(1 + turn % 2, b"%d" % turn)
            os.read(0, 1)
        """
        process = sandbox.start(self.command(code, stdin=True))
        reader, order = self.follow(process), []
        for _ in range(6):
            chunk = reader.chunk()
            assert chunk is not None
            order.append((chunk.stream, chunk.data))
            process.send(b".")
        assert order == [((Stream.STDOUT, Stream.STDERR)[turn % 2], b"%d" % turn) for turn in range(6)]
        assert reader.rest().code == 0

    def test_no_output_is_empty(self, sandbox: Sandbox) -> None:
        """A provider's own banner, or a newline of courtesy, is not the command's output."""
        assert self.run(sandbox, "") == Result(0, b"", b"")

    def test_missing_newline_is_not_added(self, sandbox: Sandbox) -> None:
        """A reader of lines adds or drops the last end of line."""
        assert self.run(sandbox, r"import os; os.write(1, b'a\nb'); os.write(2, b'\n')") == Result(
            0, b"a\nb", b"\n"
        )

    def test_streams_closed_early_do_not_end_the_command(self, sandbox: Sandbox) -> None:
        """End of file on both streams is not the end of the command."""
        code = "import os, time; os.write(1, b'x'); os.close(1); os.close(2); time.sleep(0.3); os._exit(7)"
        assert self.run(sandbox, code) == Result(7, b"x", b"")

    def test_small_output_survives_waiting(self, sandbox: Sandbox) -> None:
        """Output that is read after wait() must still be there."""
        process = sandbox.start(
            self.command("import os; os.write(1, b'out'); os.write(2, b'err'); os._exit(3)")
        )
        assert self.within(process.wait) == 3
        assert self.collect(process) == Result(3, b"out", b"err")

    def test_output_need_not_be_read(self, backend: Backend) -> None:
        """A flood that nobody reads must not keep the sandbox from being closed."""
        sandbox = backend.open(self.make_spec())
        sandbox.start(self.command("import os\nwhile True: os.write(1, b'x' * 65536)"))
        self.within(sandbox.close)
        assert not list(backend.list({"contract": self.label}))
