"""Commands: their arguments, environment and working directory, exactly as given."""

from __future__ import annotations

import os
import secrets
from pathlib import PurePosixPath

import pytest

from ...backends.interface import Command, Sandbox
from ...errors import SandboxError, StartFailed
from .base import ContractBase, Result
from .leaks import command_lines

_ARGUMENTS = """
import json, os, sys
print(json.dumps([os.fsencode(argument).hex() for argument in sys.argv[1:]]))
"""
_ENVIRONMENT = """
import json, os
print(json.dumps({name.hex(): value.hex() for name, value in os.environb.items()}))
"""
_AWKWARD = {
    "newline": "a\nb\n",
    "quotes": "'\"`",
    "unicode": "grüße 😀",
    "empty": "",
    "equals": "a=b=c",
    "expansion": "$HOME ${PATH} $(id) `id` %PATH%",
    "separators": "; exit 3 & | > /tmp/x < * ? ~ #",
    "backslash": "\\ \\n \\",
    "option": "--setenv",
    "spaces": "  a  b  ",
    "control": "\x01\x1b[31m\x7f",
}


class CommandsContract(ContractBase):
    """No shell, no inheritance, nothing lost on the way in."""

    @pytest.mark.parametrize("name", _AWKWARD)
    def test_argument_is_not_interpreted(self, sandbox: Sandbox, name: str) -> None:
        """An argument that goes through a shell, a template or a list of options changes or runs."""
        value = _AWKWARD[name]
        told = self.run_json(sandbox, _ARGUMENTS, value, "--", value, "-c")
        assert [bytes.fromhex(word) for word in told] == [
            os.fsencode(word) for word in (value, "--", value, "-c")
        ]

    def test_large_and_many_arguments(self, sandbox: Sandbox) -> None:
        """A command line cut at a buffer's end loses its last arguments."""
        arguments = ["x" * 100_000, *(str(number) for number in range(2000))]
        told = self.run_json(sandbox, _ARGUMENTS, *arguments)
        assert [bytes.fromhex(word).decode() for word in told] == arguments

    def test_code_with_newlines_and_quotes(self, sandbox: Sandbox) -> None:
        """A whole program as one argument is what a guest is started with."""
        code = 'import os\nfor word in ("it\'s", "$HOME"):\n    os.write(1, word.encode() + b"\\n")\n'
        assert self.run(sandbox, code) == Result(0, b"it's\n$HOME\n", b"")

    def test_environment_is_exactly_what_was_given(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Anything of the launcher's environment inside is a leak of credentials sooner or later."""
        monkeypatch.setenv("CONTRACT_CANARY", "leaked")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "leaked")
        given = {f"CONTRACT_{name}": value for name, value in _AWKWARD.items()} | {"contract_lower": "1"}
        told = self.run_json(sandbox, _ENVIRONMENT, env=given)
        found = {bytes.fromhex(name): bytes.fromhex(value) for name, value in told.items()}
        expected = {os.fsencode(name): os.fsencode(value) for name, value in given.items()}
        assert {name: found.get(name) for name in expected} == expected
        own = {os.fsencode(name) for name in {"PATH", "HOME", "TMPDIR", "LANG", *self.adds_env}}
        assert set(found) - set(expected) - own == set()

    def test_environment_has_the_documented_variables(self, sandbox: Sandbox) -> None:
        """Programs fail without PATH, HOME and TMPDIR, and in a locale that isn't UTF-8."""
        told = self.run_json(sandbox, "import json, os; print(json.dumps(dict(os.environ)))")
        assert all(told[name] for name in ("PATH", "HOME", "TMPDIR", "LANG"))
        assert told["LANG"].upper().replace("-", "").endswith("UTF8")

    def test_environment_of_one_command_does_not_reach_the_next(self, sandbox: Sandbox) -> None:
        """Secrets of one command must not stay for another."""
        assert self.run(sandbox, "", env={"CONTRACT_ONCE": "secret"}).code == 0
        assert "CONTRACT_ONCE" not in self.run_json(
            sandbox, "import json, os; print(json.dumps(dict(os.environ)))"
        )

    def test_environment_is_not_on_a_command_line(self, sandbox: Sandbox) -> None:
        """Every user of the host reads command lines: values must be passed otherwise."""
        secret = secrets.token_hex(16)
        code = "import os, time; os.write(1, b'up' * ('CONTRACT_SECRET' in os.environ)); time.sleep(600)"
        process = sandbox.start(self.command(code, env={"CONTRACT_SECRET": secret}))
        reader = self.follow(process)
        reader.until(b"up")
        assert secret not in command_lines()
        self.within(process.kill)
        assert reader.rest().stdout == b"up"

    @pytest.mark.parametrize(
        "changes",
        [
            {"env": {"CONTRACT": "x\0--bind\0/\0/host"}},
            {"env": {"CONTRACT\0--bind\0/\0/host": "x"}},
            {"env": {"CONTRACT=x": "y"}},
            {"env": {"": "x"}},
            {"cwd": PurePosixPath("/tmp\0--bind\0/\0/host")},
        ],
        ids=["NUL in a value", "NUL in a name", "= in a name", "empty name", "NUL in cwd"],
    )
    def test_injection_is_refused(self, sandbox: Sandbox, changes: dict[str, object]) -> None:
        """Where a NUL separates a tool's options, a value that holds one becomes options."""
        with pytest.raises((StartFailed, ValueError)):
            self.collect(sandbox.start(self.command("import os; os.write(1, b'ran')", **changes)))
        assert self.run(sandbox, "import os; os.write(1, b'next')") == Result(0, b"next", b"")

    @pytest.mark.parametrize("argv", [[], ["a\0b"], [""]], ids=["none", "NUL", "empty"])
    def test_impossible_argv_is_refused(self, sandbox: Sandbox, argv: list[str]) -> None:
        """Nothing to run must not become a shell, or somebody's default command."""
        try:
            code = self.collect(sandbox.start(Command(argv))).code
        except (SandboxError, ValueError):
            return
        assert argv == [""] and code in (126, 127), f"{argv} ended with {code}"

    def test_working_directories_are_writable(self, sandbox: Sandbox) -> None:
        """Steps write to where they start, to HOME, to TMPDIR and to /tmp."""
        code = """
        import json, os, tempfile
        places = [os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"], "/tmp"]
        for place in places:
            with tempfile.NamedTemporaryFile(dir=place) as file:
                file.write(b"x")
        print(json.dumps(places))
        """
        assert all(place.startswith("/") for place in self.run_json(sandbox, code))

    def test_devices_that_every_program_uses(self, sandbox: Sandbox) -> None:
        """Programs that drop another one's output open the null device for writing."""
        code = """
        import os
        os.write(os.open("/dev/null", os.O_RDWR), b"dropped")
        os.write(1, b"%d" % len(os.read(os.open("/dev/urandom", os.O_RDONLY), 8)))
        """
        assert self.run(sandbox, code) == Result(0, b"8", b"")

    def test_working_directory_is_not_home(self, sandbox: Sandbox) -> None:
        """Files of the step and files of tools would mix."""
        cwd, home = self.run_json(
            sandbox, "import json, os; print(json.dumps([os.getcwd(), os.environ['HOME']]))"
        )
        assert cwd != home

    def test_working_directory_is_honoured(self, sandbox: Sandbox) -> None:
        """A command started elsewhere reads and writes the wrong files."""
        where = "import json, os; print(json.dumps([os.getcwd(), os.path.realpath(os.environ['HOME'])]))"
        _, home = self.run_json(sandbox, where)
        assert self.run_json(sandbox, where, cwd=PurePosixPath(home))[0] == home
        assert self.run_json(sandbox, where, cwd=PurePosixPath("/"))[0] == "/"
