"""What the chapters of the contract share: the hooks of a backend, and running commands with patience."""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from ...backends.interface import (
    Backend,
    Command,
    Feature,
    Isolation,
    Output,
    Process,
    PythonEnvironment,
    Sandbox,
    SandboxSpec,
    Stream,
)
from . import leaks

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """How a command ended, with all that it wrote."""

    code: int
    stdout: bytes
    stderr: bytes


class Task(Generic[T]):
    """Something done in another thread, so that a hang becomes a failure."""

    def __init__(self, action: Callable[[], T], patience: float) -> None:
        self._action, self._patience = action, patience
        self._value: T
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._act, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Return or raise what the action did; fails the test when it hangs."""
        self._thread.join(self._patience)
        if self._thread.is_alive():
            pytest.fail(f"still not done after {self._patience} s: it hangs")
        if self._error is not None:
            raise self._error
        return self._value

    def _act(self) -> None:
        try:
            self._value = self._action()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            self._error = error


class Reader:
    """One command's output, read in steps."""

    def __init__(self, process: Process, patience: float) -> None:
        self._process, self._patience = process, patience
        self._chunks = Task(process.output, patience).result()
        self._written: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}

    @property
    def stdout(self) -> bytes:
        """What has been read from stdout so far."""
        return self._written[Stream.STDOUT]

    def chunk(self) -> Output | None:
        """Return the next chunk, None at the end."""
        chunk = Task(lambda: next(self._chunks, None), self._patience).result()
        if chunk is not None:
            assert chunk.data, "an empty chunk of output"
            self._written[chunk.stream] += chunk.data
        return chunk

    def until(self, mark: bytes) -> None:
        """Read until stdout holds the mark, and leave the rest to be read."""
        while mark not in self._written[Stream.STDOUT]:
            if self.chunk() is None:
                pytest.fail(f"the command ended without saying {mark!r}: {self._written}")

    def rest(self) -> Result:
        """Read to the end and wait; the result holds all that was written."""

        def read() -> int:
            parts: dict[Stream, list[bytes]] = {Stream.STDOUT: [], Stream.STDERR: []}
            for chunk in self._chunks:
                assert chunk.data, "an empty chunk of output"
                parts[chunk.stream].append(chunk.data)
            for stream, chunks in parts.items():
                self._written[stream] += b"".join(chunks)
            return self._process.wait()

        code = Task(read, self._patience).result()
        return Result(code, self._written[Stream.STDOUT], self._written[Stream.STDERR])


class ContractBase:
    """Hooks to override, all of them class data but two: the fixture ``backend``, and ``make_spec``."""

    python: ClassVar[str] = "python3"
    """A Python >= 3.8 inside; for a backend with HOST_PYTHON set it to ``sys.executable``."""
    patience: ClassVar[float] = 60.0
    """Seconds after which something is held to hang; no test passes or fails by being slow before."""
    cores: ClassVar[float] = 0.5
    """The fewest cores that can be asked for."""
    adds_env: ClassVar[frozenset[str]] = frozenset({"PWD"})
    """Variables that commands may find besides the documented ones."""
    keeps: ClassVar[tuple[str, ...]] = ()
    """Patterns of paths below the temporary directory that the backend may keep."""
    watched: ClassVar[frozenset[str]] = leaks.WATCHED
    """Kinds of leaks to look for; a provider's SDK may rightly keep descriptors and threads."""
    never: ClassVar[frozenset[Feature]] = frozenset()
    """Features that the backend lacks by design, on whatever machine: their tests are expected failures."""
    known_failures: ClassVar[Mapping[str, str]] = {}
    """Names of tests that must fail, each with the reason; a pass is then a failure."""

    features: frozenset[Feature]
    isolation: Isolation
    label: str

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend to test: override it."""
        raise NotImplementedError("override the fixture `backend` of BackendContract")

    def make_spec(self, **changes: Any) -> SandboxSpec:
        """Return the least that a sandbox of this backend needs, with the changes of one test."""
        networks = {"none": Feature.NETWORK_OFF, "host": Feature.NETWORK_HOST}
        own: dict[str, Any] = {
            "labels": {"contract": self.label},
            "network": next((word for word, needs in networks.items() if needs in self.features), "public"),
            "python": host_python() if Feature.HOST_PYTHON in self.features else None,
        }
        return SandboxSpec(**{**own, **changes})

    @pytest.fixture(autouse=True)
    def surroundings(
        self,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,  # noqa: ARG002 - made before TMPDIR changes
    ) -> Iterator[None]:
        """Give each test temporary directories of its own, and fail it when anything stays behind."""
        reason = self.known_failures.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        self.label = uuid.uuid4().hex
        # Short, because sockets below it have at most 107 characters.
        with tempfile.TemporaryDirectory(prefix="sbx") as name, leaks.adopting_orphans():
            for variable in ("TMPDIR", "XDG_RUNTIME_DIR"):
                monkeypatch.setenv(variable, name)
            monkeypatch.setattr(tempfile, "tempdir", name)
            files = Path(name)
            files.chmod(0o711)  # what is mounted from here may be entered by another user
            before = leaks.Snapshot.take(files, self.keeps)
            backend: Backend = request.getfixturevalue("backend")
            self.features, self.isolation = backend.features, backend.isolation
            yield
            left = leaks.leaked(before, files, self.keeps, self.watched)
        assert not left, f"left behind: {left}"

    @pytest.fixture
    def sandbox(self, backend: Backend) -> Iterator[Sandbox]:
        """Open the sandbox of one test."""
        sandbox = backend.open(self.make_spec())
        try:
            yield sandbox
        finally:
            self.within(sandbox.close)

    def needs(self, feature: Feature) -> None:
        """End the test unless the backend declares the feature: expected when it never does, else skipped."""
        if feature not in self.features:
            give_up = pytest.xfail if feature in self.never else pytest.skip
            give_up(f"declares no {feature.name}")

    def background(self, action: Callable[[], T]) -> Task[T]:
        """Do something in another thread, to be asked for its result."""
        return Task(action, self.patience)

    def within(self, action: Callable[[], T]) -> T:
        """Do something that must not hang."""
        return self.background(action).result()

    def command(self, code: str, *arguments: str, **changes: Any) -> Command:
        """Return a command that runs Python code, with ``sys.argv[1:]`` as given."""
        argv = [self.python, "-I", "-S", "-c", textwrap.dedent(code), *arguments]
        return Command(argv, **changes)

    def run(self, sandbox: Sandbox, code: str, *arguments: str, **changes: Any) -> Result:
        """Run Python code in the sandbox to its end."""
        return self.collect(sandbox.start(self.command(code, *arguments, **changes)))

    def run_json(self, sandbox: Sandbox, code: str, *arguments: str, **changes: Any) -> Any:
        """Run Python code that prints JSON and nothing else."""
        result = self.run(sandbox, code, *arguments, **changes)
        assert (result.code, result.stderr) == (0, b"")
        return json.loads(result.stdout)

    def follow(self, process: Process) -> Reader:
        """Read a command's output step by step."""
        return Reader(process, self.patience)

    def collect(self, process: Process) -> Result:
        """Read all output, then wait."""
        return self.follow(process).rest()


def host_python() -> PythonEnvironment:
    """Describe this interpreter, with every directory that its standard library comes from."""
    executable = Path(sys.executable)
    roots = {Path(sys.prefix), Path(sys.base_prefix), executable.resolve().parent.parent}
    return PythonEnvironment(executable=executable, roots=tuple(sorted(roots)))
