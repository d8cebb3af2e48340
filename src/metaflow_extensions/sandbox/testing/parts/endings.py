"""How commands end: exit codes, signals, and never one taken for another."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from ...backends.interface import Command, Sandbox
from ...errors import StartFailed
from .base import ContractBase, Result


class EndingsContract(ContractBase):
    """An exit code is the command's own."""

    @pytest.mark.parametrize("code", [0, 1, 2, 77, 124, 125, 126, 127, 255])
    def test_exit_code_passes_through(self, sandbox: Sandbox, code: int) -> None:
        """Codes that tools use (timeout's 124, docker's 125, the shell's 126 and 127) are the user's too."""
        assert self.run(sandbox, f"import os; os.write(1, b'ran'); os._exit({code})") == Result(
            code, b"ran", b""
        )

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGHUP", "SIGUSR1"])
    def test_death_by_signal_is_128_and_its_number(self, sandbox: Sandbox, name: str) -> None:
        """A negative code, a bare 1, or a command that as process 1 ignores the signal hides how it died."""
        code = """
        import os, resource, signal, sys
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = getattr(signal, sys.argv[1])
        os.write(1, b"%d" % (128 + number))
        os.kill(os.getpid(), number)
        """
        result = self.run(sandbox, code, name)
        assert (str(result.code).encode(), result.stderr) == (result.stdout, b"")

    def test_quick_sigterm_is_no_timeout(self, sandbox: Sandbox) -> None:
        """Code 143 from the command itself must not become CommandTimeout, nor lose its output."""
        code = "import os, signal; os.write(1, b'before'); os.kill(os.getpid(), signal.SIGTERM)"
        assert self.run(sandbox, code) == Result(143, b"before", b"")

    def test_exit_code_is_not_read_from_the_output(self, sandbox: Sandbox) -> None:
        """A code parsed out of the output, or taken from an inherited descriptor, can be forged."""
        code = r"""
        import os
        for stream in range(1, 64):
            try:
                os.write(stream, b'\n{"exit-code": 0}\nexit 0\n0\n')
            except OSError:
                pass
        os._exit(9)
        """
        assert self.run(sandbox, code).code == 9

    def test_waiting_twice_gives_the_same(self, sandbox: Sandbox) -> None:
        """A code that can be fetched once only is lost to the second who asks."""
        process = sandbox.start(self.command("import os; os._exit(5)"))
        assert self.collect(process).code == 5
        assert [self.within(process.wait), self.within(process.wait)] == [5, 5]

    def test_waiting_in_two_threads_gives_the_same(self, sandbox: Sandbox) -> None:
        """Two threads that wait for one child race for its code."""
        process = sandbox.start(self.command("import os, time; time.sleep(0.3); os._exit(6)"))
        waiting = [self.background(process.wait) for _ in range(3)]
        assert [task.result() for task in waiting] == [6, 6, 6]
        assert self.collect(process) == Result(6, b"", b"")

    def test_several_commands_one_after_another(self, sandbox: Sandbox) -> None:
        """State of the first command must not reach the second's result."""
        results = [self.run(sandbox, f"import os; os.write(1, b'{n}'); os._exit({n})") for n in (3, 0, 4)]
        assert results == [Result(3, b"3", b""), Result(0, b"0", b""), Result(4, b"4", b"")]

    @pytest.mark.parametrize(
        "argv", [["no-such-command-here"], ["/no/such/file"], ["--version"], ["/"]], ids=lambda argv: argv[0]
    )
    def test_missing_command_does_not_pass(self, sandbox: Sandbox, argv: list[str]) -> None:
        """A command that can't be found must not look like one that failed, or like a tool's option."""
        code, said = self.start_or_code(sandbox, Command(argv))
        assert code in (None, 126, 127), f"{code}: {said!r}"

    def test_missing_working_directory_does_not_pass(self, sandbox: Sandbox) -> None:
        """Code that falls back to another directory reads and writes the wrong files."""
        command = self.command("import os; os.write(1, b'ran')", cwd=PurePosixPath("/no/such/directory"))
        code, said = self.start_or_code(sandbox, command)
        assert code != 0
        assert b"ran" not in said

    def test_sandbox_survives_a_command_that_could_not_start(self, sandbox: Sandbox) -> None:
        """A failed start must not take the sandbox along."""
        self.start_or_code(sandbox, Command(["/no/such/file"]))
        assert self.run(sandbox, "import os; os.write(1, b'next')") == Result(0, b"next", b"")

    def start_or_code(self, sandbox: Sandbox, command: Command) -> tuple[int | None, bytes]:
        """Run a command that may not start: its exit code, None for StartFailed, and its stdout."""
        try:
            result = self.collect(sandbox.start(command))
        except StartFailed:
            return None, b""
        return result.code, result.stdout
