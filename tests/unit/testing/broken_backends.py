"""Backends with one bug each, under the contract; run by test_contract, which expects the failures.

A class's ``caught_by`` names the test that must fail, or whose look for leaks must.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pytest

from metaflow_extensions.sandbox.backends.interface import (
    Command,
    Output,
    SandboxInfo,
    SandboxSpec,
    Stream,
)
from metaflow_extensions.sandbox.errors import CommandTimeout
from metaflow_extensions.sandbox.testing.contract import BackendContract
from metaflow_extensions.sandbox.testing.parts import leaks
from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend


class Around:
    """Something that behaves like what it surrounds, but for what a subclass overrides."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Broken(ScriptedBackend):
    """Opens sandboxes and starts processes that a subclass spoils."""

    sandbox: ClassVar[Callable[[Any], Any]] = Around
    process: ClassVar[Callable[[Any], Any]] = Around

    def open(self, spec: SandboxSpec) -> Any:
        sandbox = type(self).sandbox(super().open(spec))
        start, surround = sandbox.start, type(self).process
        sandbox.start = lambda command: surround(start(command))
        return sandbox


class Contract(BackendContract):
    """The contract, impatient."""

    @pytest.fixture(autouse=True)
    def impatience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For these tests alone: others of this process wait for what ends on its own."""
        monkeypatch.setattr(leaks, "PATIENCE", 0.5)

    python = sys.executable
    patience = 5.0
    backend_class: ClassVar[type[ScriptedBackend]]
    caught_by: ClassVar[str]

    @pytest.fixture
    def backend(self) -> ScriptedBackend:
        return self.backend_class()


def changed(change: Callable[[Command], Command]) -> type[Around]:
    """A sandbox that changes commands before it starts them."""

    class Changed(Around):
        def start(self, command: Command) -> Any:
            return self.inner.start(change(command))

    return Changed


class ThroughShell(Broken):
    sandbox = changed(lambda command: dataclasses.replace(command, argv=["sh", "-c", " ".join(command.argv)]))


class Inheriting(Broken):
    sandbox = changed(lambda command: dataclasses.replace(command, env={**os.environ, **command.env}))


class EnvironmentOnCommandLine(Broken):
    @staticmethod
    def shown(command: Command) -> Command:
        exports = "".join(f"export {name}='{value}'; " for name, value in command.env.items())
        return dataclasses.replace(
            command, argv=["/bin/sh", "-c", exports + '"$@"; exit $?', "sh", *command.argv]
        )

    sandbox = changed(shown)


class Decoding(Broken):
    class process(Around):  # noqa: N801 - overrides a hook
        def output(self) -> Iterator[Output]:
            for chunk in self.inner.output():
                yield Output(chunk.stream, chunk.data.decode(errors="replace").encode())


class Merging(Broken):
    class process(Around):  # noqa: N801
        def output(self) -> Iterator[Output]:
            return (Output(Stream.STDOUT, chunk.data) for chunk in self.inner.output())


class Buffering(Broken):
    class process(Around):  # noqa: N801
        def output(self) -> Iterator[Output]:
            return iter(list(self.inner.output()))


class Truncating(Broken):
    class process(Around):  # noqa: N801
        def output(self) -> Iterator[Output]:
            seen = 0
            for chunk in self.inner.output():
                seen += len(chunk.data)
                if seen <= 1 << 20:
                    yield chunk


class KillingOne(Broken):
    class process(Around):  # noqa: N801
        def kill(self) -> None:
            self.inner._swept = True
            self.inner._child.kill()


class LeavingChildren(Broken):
    class process(Around):  # noqa: N801
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            inner._swept = True


class GuessingTimeouts(Broken):
    class process(Around):  # noqa: N801
        def wait(self) -> int:
            if self.inner.wait() == 124:
                raise CommandTimeout("guessed from the exit code")
            return int(self.inner.wait())


class NegativeCodes(Broken):
    class process(Around):  # noqa: N801
        def wait(self) -> int:
            code = int(self.inner.wait())
            return 128 - code if code > 128 else code


class ForgettingCodes(Broken):
    class process(Around):  # noqa: N801
        def wait(self) -> int:
            code, self.wait = self.inner.wait(), lambda: 0  # type: ignore[method-assign]
            return int(code)


class LeavingFiles(Broken):
    class sandbox(Around):  # noqa: N801
        def close(self) -> None:
            self.inner.close()
            self.inner.root.mkdir(exist_ok=True)


class LeavingDescriptors(Broken):
    class sandbox(Around):  # noqa: N801
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            os.open("/", os.O_RDONLY)


class LeavingThreads(Broken):
    class sandbox(Around):  # noqa: N801
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            threading.Thread(target=threading.Event().wait, daemon=True).start()


class LeavingOrphans(Broken):
    class sandbox(Around):  # noqa: N801
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            quiet = subprocess.DEVNULL
            subprocess.run(["setsid", "-f", "sleep", "20"], env={}, stdout=quiet, stderr=quiet, check=True)


class ListingAll(Broken):
    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        return super().list({})


class DestroyingByPrefix(Broken):
    def destroy(self, sandbox_id: str) -> None:
        for info in super().list({}):
            if info.id.startswith(sandbox_id):
                super().destroy(info.id)


class FollowingLinks(Broken):
    class sandbox(Around):  # noqa: N801
        def get(self, source: PurePosixPath, target: Path) -> None:
            shutil.copyfile(source, target)


class PuttingLinks(Broken):
    class sandbox(Around):  # noqa: N801
        def put(self, source: Path, target: PurePosixPath) -> None:
            self.inner.put(source, target)
            copy = self.inner.root / "files" / target.relative_to("/")
            copy.unlink()
            copy.symlink_to(source)


class IgnoringOptions(Broken):
    def open(self, spec: SandboxSpec) -> Any:
        return super().open(dataclasses.replace(spec, memory=None))


class Whole(Broken):
    """Without a bug: for the tests of what the contract itself promises."""


CASES: Mapping[type[Broken], str] = {
    ThroughShell: "test_argument_is_not_interpreted[separators]",
    Inheriting: "test_environment_is_exactly_what_was_given",
    EnvironmentOnCommandLine: "test_environment_is_not_on_a_command_line",
    Decoding: "test_split_characters_are_not_decoded",
    Merging: "test_bytes_arrive_exactly_and_apart",
    Buffering: "test_output_arrives_while_the_command_runs",
    Truncating: "test_large_output_with_a_slow_consumer",
    KillingOne: "test_kill_ends_children_and_grandchildren",
    LeavingChildren: "test_background_children_end_with_the_command",
    GuessingTimeouts: "test_exit_code_passes_through[124]",
    NegativeCodes: "test_quick_sigterm_is_no_timeout",
    ForgettingCodes: "test_waiting_twice_gives_the_same",
    LeavingFiles: "test_close_without_a_command",
    LeavingDescriptors: "test_close_without_a_command",
    LeavingThreads: "test_close_without_a_command",
    LeavingOrphans: "test_close_without_a_command",
    ListingAll: "test_list_filters_by_labels",
    DestroyingByPrefix: "test_destroy_of_what_is_not_there_touches_nothing[no-such-sandbox]",
    FollowingLinks: "test_get_of_no_regular_file_is_refused[link]",
    PuttingLinks: "test_put_is_a_copy",
    IgnoringOptions: "test_undeclared_options_are_refused",
}

for case in (*CASES, Whole):
    name = f"Test{case.__name__}"
    globals()[name] = type(name, (Contract,), {"backend_class": case, "__module__": __name__})


class TestWronglyKnown(Contract):
    """A known failure that passes."""

    backend_class = Whole
    known_failures: ClassVar = {"test_no_output_is_empty": "believed to fail"}
