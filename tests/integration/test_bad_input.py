"""Bad input gets one clear message, no traceback of ours, Metaflow's exit code, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .harness import FLOWS, FlowRun, place_flow
from .live import LiveFlow, live_directory, live_flow
from .services import UPSTREAM, WHOLE, running

SANDBOXED = ("--with", "sandbox")
OURS = "metaflow_extensions/sandbox"
Env = Mapping[str, str]


def lines_of(output: str, fragment: str) -> list[str]:
    """The lines that hold a text."""
    return [line for line in output.splitlines() if fragment in line]


def shown(run: FlowRun) -> str:
    """The output as one line with single spaces: Metaflow wraps what it shows."""
    assert OURS not in run.output, run.output  # a frame of ours in a traceback
    return " ".join(run.output.split())


# --- refused before anything starts -------------------------------------------------------------


def refused(*arguments: str, env: Env | None = None) -> str:
    """What a run says that is refused before its first task."""
    with live_flow("refused_flow.py", "run", *arguments, env=env) as flow:
        run = flow.finish()
        flow.assert_gone()
    said = shown(run)
    assert run.returncode == 1, run.output
    assert "Traceback" not in said, run.output
    assert "Task is starting" not in said
    assert "USER CODE" not in said
    return said


def decorated(**attributes: Any) -> Env:
    """The environment that puts @sandbox with these attributes on the step."""
    return {"DECORATED": json.dumps([["sandbox", attributes]])}


# An attribute's wrong value as code may hold it, as text, and what the message says is right.
WRONG: Mapping[str, tuple[Any, str, str]] = {
    "backend": (5, "bublewrap", "did you mean 'bubblewrap'?"),
    "image": (["a"], "", "is a non-empty string"),
    "cpu": (True, "two", "is a number of cores above 0, such as 2 or 0.5"),
    "memory": (1.5, "4GB", "of MiB"),
    "disk": (0, "-1", "is a number of MiB above 0, such as 4096 for 4 GiB"),
    "gpu": (-1, "a100", "is a whole number, 0 or more"),
    "timeout": ([60], "1h", "is a number of seconds above 0, such as 3600 for an hour"),
    "env": ({"A-B": "x"}, "A", "letters, digits and _ only"),
    "secrets": ({"A": "*"}, "A", "names of hosts"),
    "network": ("lan", "lan", 'is "none", "host", "public" or a list of host names'),
    "isolation": (3, "strong", "is one of process, container, vm"),
    "executable": ("", " ", "is a non-empty string"),
    "datastore_access": (False, "s3", "is one of relay, direct"),
    "backend_options": ("x", "x", "is a dictionary with string keys, or its JSON"),
}
TEXT_ONLY = dict.fromkeys(["env", "secrets"], "is a dictionary with string keys, or its JSON")
CODE_ONLY = {"backend": "is a non-empty string"}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_in_the_code(name: str) -> None:
    """Guards against values of a wrong type or unit that are taken for something else."""
    value, _, right = WRONG[name]
    said = refused(env=decorated(**{name: value}))
    assert CODE_ONLY.get(name, right) in said
    assert f"@sandbox({name}=…)" in said


@pytest.mark.parametrize("name", [name for name in WRONG if WRONG[name][1].strip()])
def test_wrong_values_on_the_command_line(name: str) -> None:
    """Guards against text that --with passes on unread."""
    said = refused("--with", f"sandbox:{name}={WRONG[name][1]}")
    assert TEXT_ONLY.get(name, WRONG[name][2]) in said


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_in_the_environment(name: str) -> None:
    """Guards against a setting that is ignored, and messages that blame the code for it."""
    said = refused(*SANDBOXED, env={f"METAFLOW_SANDBOX_{name.upper()}": WRONG[name][1]})
    assert TEXT_ONLY.get(name, WRONG[name][2]) in said
    assert name == "backend" or f"METAFLOW_SANDBOX_{name.upper()} " in said


@pytest.mark.parametrize(
    "name", ["MAX_INFRA_RETRIES", "MAX_ARTIFACT", "MAX_UPLOAD", "MAX_OUTPUT", "MAX_CODE"]
)
@pytest.mark.parametrize("value", ["many", "-1"])
def test_wrong_limits(name: str, value: str) -> None:
    """Guards against numbers that Metaflow itself would answer with a traceback at import."""
    said = refused(*SANDBOXED, env={f"METAFLOW_SANDBOX_{name}": value})
    assert f"METAFLOW_SANDBOX_{name} is a whole number, 0 or more; it is '{value}'" in said


def test_unknown_artifact_mode() -> None:
    """Guards against a misspelt vetting mode that vets nothing."""
    said = refused(*SANDBOXED, env={"METAFLOW_SANDBOX_ARTIFACTS": "veted"})
    assert "METAFLOW_SANDBOX_ARTIFACTS is 'any' or 'vetted'; it is 'veted'" in said


def test_unknown_attribute() -> None:
    """Guards against a misspelt attribute; Metaflow itself lists those that there are."""
    said = refused("--with", "sandbox:memry=1024")
    assert "'memry'" in said
    assert "memory" in said


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("image=python:3.12", "image='python:3.12' needs a backend with IMAGE"),
        ("gpu=1", "gpu=1 needs a backend with GPU"),
        ("network=public", "network='public' needs a backend with NETWORK_PUBLIC"),
        ("network=models.example.org", "network=['models.example.org'] needs a backend with EGRESS_LIST"),
        (
            "isolation=vm",
            "isolation='vm' is stronger than sandbox backend 'bubblewrap', which gives 'container'",
        ),
        ("datastore_access=direct", "datastore_access='direct' needs a datastore that the sandbox can reach"),
    ],
)
def test_what_bubblewrap_cannot_do(option: str, cause: str) -> None:
    """Guards against options that are dropped, or refused only when a task has started."""
    assert cause in refused("--with", f"sandbox:{option}")


@pytest.mark.parametrize(
    ("backend", "cause"),
    [
        ("no_such_package.module:Class", "there is no module 'no_such_package'"),
        ("json:NoSuchClass", "module 'json' has no class 'NoSuchClass'"),
        ("collections:OrderedDict", "is not a sandbox backend: it lacks"),
        ("needs_sdk:Backend", "can't be imported (No module named 'no_such_sdk'): install what it needs"),
        ("cannot_run:Backend", "there is no such thing here: install it with this command"),
    ],
)
def test_backends_that_cannot_be_used(backend: str, cause: str) -> None:
    """Guards against a backend whose absence shows as a traceback, or only in the middle of a run."""
    with live_directory() as root:
        flow = place_flow("refused_flow.py", root / "flow")
        (flow.parent / "needs_sdk.py").write_text("import no_such_sdk\n")
        (flow.parent / "cannot_run.py").write_text(
            "from metaflow_extensions.sandbox.errors import BackendUnavailable\n"
            "from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend\n"
            "class Backend(ScriptedBackend):\n"
            "    def check(self):\n"
            "        raise BackendUnavailable('there is no such thing here: install it with this command')\n"
        )
        live = LiveFlow(flow, root, ("run", "--with", f"sandbox:backend={backend}"), {})
        try:
            run = live.finish()
            live.assert_gone()
        finally:
            live.end()
    assert run.returncode == 1
    assert "Traceback" not in run.output
    assert "Task is starting" not in run.output
    assert cause in shown(run)


def test_a_backend_with_a_bug() -> None:
    """Guards against a task that waits for ever, or blames its supervisor, when a backend fails oddly."""
    with live_directory() as root:
        flow = place_flow("refused_flow.py", root / "flow")
        (flow.parent / "odd.py").write_text(
            "from metaflow_extensions.sandbox.backends.interface import Feature\n"
            "from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend\n"
            "class Backend(ScriptedBackend):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.features |= {Feature.MOUNT, Feature.NETWORK_OFF}\n"
            "    def open(self, spec):\n"
            "        raise ZeroDivisionError('of the backend')\n"
        )
        env = {"PYTHONPATH": str(flow.parent)}
        live = LiveFlow(flow, root, ("run", "--with", "sandbox:backend=odd:Backend"), env)
        run = fails(live)
    assert "Traceback" not in run.output
    assert "USER CODE" not in run.output
    said = "The backend odd:Backend failed with ZeroDivisionError: of the backend."
    assert len(lines_of(run.output, said)) == 1


def test_bubblewrap_that_is_missing() -> None:
    """Guards against a wrong path of bwrap that is found out only in the first task."""
    said = refused(*SANDBOXED, env={"METAFLOW_SANDBOX_BWRAP_PATH": "/no/such/bwrap"})
    assert (
        "METAFLOW_SANDBOX_BWRAP_PATH='/no/such/bwrap' is not an executable file: correct or unset it" in said
    )


@pytest.mark.parametrize("other", ["kubernetes", "batch"])
def test_two_ways_to_run_a_step(other: str) -> None:
    """Guards against a step that @kubernetes or @batch would take out of its sandbox."""
    said = refused(*SANDBOXED, "--with", other)
    assert f"is marked @sandbox and @{other}: use one of them." in said


def test_two_sandboxes_on_a_step() -> None:
    """Guards against one of two decorators silently winning over the other."""
    said = refused(env={"DECORATED": json.dumps([["sandbox", {}], ["bubblewrap", {}]])})
    assert "use one of them" in said
    assert "@sandbox" in said
    assert "@bubblewrap" in said


# --- steps that misbehave -----------------------------------------------------------------------


def rude(way: str, *arguments: str, sandboxed: bool = True, env: Env | None = None) -> FlowRun:
    """A run whose first step misbehaves that way, and what is left of it: nothing."""
    words = ["run", "--way", way, *(SANDBOXED if sandboxed and not arguments else ()), *arguments]
    with live_flow("rude_flow.py", *words, env=env) as flow:
        run = flow.finish()
        flow.assert_gone()
    assert OURS not in run.output, run.output
    assert lines_of(run.output, "] before"), run.output
    return run


@pytest.mark.parametrize(
    "way", ["close_stdout", "close_both", "exit_3", "system_exit", "crash", "unpicklable"]
)
def test_ends_as_a_local_step_does(way: str) -> None:
    """Guards exit codes, messages and the run's outcome where a local step has a sane one."""
    local, sandboxed = rude(way, sandboxed=False), rude(way)
    assert sandboxed.returncode == local.returncode
    for message in ("the run goes on", "Task failed", "segmentation fault", "Cannot pickle dump artifact"):
        assert bool(lines_of(sandboxed.output, message)) == bool(lines_of(local.output, message)), message


def test_an_exit_that_saves_nothing_is_a_failure() -> None:
    """Guards against os._exit(0) that is taken for success."""
    run = rude("exit_0")
    assert run.returncode == 1
    assert len(lines_of(run.output, "ended without saving its results")) == 1
    assert "Step start (task-id 1) failed." in run.output


def test_a_step_that_kills_its_parent() -> None:
    """Guards against a step that takes its guest, or more of the launcher, with it unexplained."""
    run = rude("kill_parent")
    assert run.returncode == 1
    assert len(lines_of(run.output, "The step was killed: by something in it")) == 1


def test_a_daemon_does_not_hold_up_the_run() -> None:
    """Guards against waiting for output that a left-over process never closes."""
    run = rude("daemon")
    assert run.returncode == 0, run.output
    assert lines_of(run.output, "the run goes on")


def test_a_full_disk_in_the_sandbox() -> None:
    """Guards against a step that fills more than its disk=, or fails without saying why."""
    run = rude("fill_disk", "--with", "sandbox:disk=16")
    assert run.returncode == 1
    assert lines_of(run.output, "No space left on device") or lines_of(run.output, "File too large")


def test_too_much_memory() -> None:
    """Guards against a step that is killed for its memory without a reason."""
    run = rude("take_memory", "--with", "sandbox:memory=400")
    assert run.returncode == 1
    assert lines_of(run.output, "more than its 400 MiB of memory") or lines_of(run.output, "MemoryError")


# --- output -------------------------------------------------------------------------------------


def test_output_that_is_no_text_for_a_terminal() -> None:
    """Guards against escapes, returns, NUL and forged records that reach the terminal or the logs."""
    run = rude("odd_output")
    assert run.returncode == 0, run.output
    assert lines_of(run.output, "grüße 漢字 🚀")
    assert lines_of(run.output, r"nul \x00 here")
    assert lines_of(run.output, r"title \x1b]0;owned\x07 and \x1b[2J clear")
    for byte in "\0\x1b\x07\r":
        assert byte not in run.output
    # A forged record would be shown without its head, with its own time.
    assert len(lines_of(run.output, "[MFLOG|0|2001-01-01T00:00:00.000000Z|task|forged] forged")) == 2
    assert not any(line.startswith(("2001-", "2000-")) for line in run.output.splitlines())
    for number in (1, 2, 3):
        assert len(lines_of(run.output, f"] progress {number}")) == 1
    assert not lines_of(run.output, "] [sandbox] forged")
    assert lines_of(run.output, "no line break at the end")


def test_output_without_end() -> None:
    """Guards against 100 MB that fill the launcher's logs, block the step or take for ever."""
    run = rude("flood")
    assert run.returncode == 0, run.output[-2000:]
    assert len(lines_of(run.output, "The step has written 16 MiB of output; the rest is dropped.")) == 1
    assert len(lines_of(run.output, "METAFLOW_SANDBOX_MAX_OUTPUT sets the limit, in MiB.")) == 1
    assert lines_of(run.output, "the run goes on")
    # 16 MiB of lines of 100 bytes, each with Metaflow's head.
    assert run.output.count("y" * 99) <= (16 << 20) / 100


def test_the_limit_of_output_can_be_set() -> None:
    """Guards against a limit that is documented and not read."""
    run = rude("flood", env={"METAFLOW_SANDBOX_MAX_OUTPUT": "1"})
    assert run.returncode == 0, run.output[-2000:]
    assert len(lines_of(run.output, "The step has written 1 MiB of output")) == 1
    assert run.output.count("y" * 99) <= (1 << 20) / 100


def test_a_line_without_end() -> None:
    """Guards against a 10 MB line that is held in memory, lost, or blocks the scheduler."""
    run = rude("long_line")
    assert run.returncode == 0, run.output[-2000:]
    assert run.output.count("x") >= 10_000_000
    assert max(map(len, run.output.splitlines())) < 200_000


# --- places -------------------------------------------------------------------------------------


@contextlib.contextmanager
def placed(root: Path, path: str, env: Env | None = None, **how: Any) -> Iterator[LiveFlow]:
    """A sandboxed run of RudeFlow, which behaves, from a file below ``root``."""
    script = root / path
    script.parent.mkdir(parents=True, exist_ok=True)
    if not script.exists():
        shutil.copy(FLOWS / "rude_flow.py", script)
    flow = LiveFlow(script, root, ("run", "--way", "nothing", *SANDBOXED), env or {}, **how)
    try:
        yield flow
    finally:
        flow.end()


def succeeds(flow: LiveFlow) -> FlowRun:
    """The run, which has succeeded and left nothing."""
    run = flow.finish()
    assert run.returncode == 0, run.output
    assert lines_of(run.output, "the run goes on")
    flow.assert_gone()
    return run


def test_a_directory_with_spaces_and_unicode() -> None:
    """Guards paths that are split, quoted or encoded on the way."""
    with live_directory() as root, placed(root, "with spaces and ünïcode 漢/flöw file.py") as flow:
        succeeds(flow)


def test_a_flow_below_the_working_directory() -> None:
    """Guards `python sub/flow.py run`: the script's place, its siblings and the datastore's."""
    with live_directory() as root:
        (root / "top" / "sub").mkdir(parents=True)
        text = (FLOWS / "rude_flow.py").read_text()
        (root / "top" / "sub" / "flow.py").write_text(f"import sibling\n{text}")
        (root / "top" / "sub" / "sibling.py").touch()
        with placed(root, "top/sub/flow.py", cwd=root / "top") as flow:
            succeeds(flow)


def test_a_flow_with_a_name_of_200_characters() -> None:
    """Guards names that become parts of sockets' paths, cgroups or labels."""
    with live_directory() as root:
        (root / "flow").mkdir()
        text = (FLOWS / "rude_flow.py").read_text()
        (root / "flow" / "flow.py").write_text(text.replace("RudeFlow", "F" + "x" * 199))
        with placed(root, "flow/flow.py") as flow:
            succeeds(flow)


def test_a_long_temporary_directory() -> None:
    """Guards against sockets whose path is longer than Linux allows."""
    with live_directory() as root:
        long = root / ("t" * 100) / ("u" * 100)
        long.mkdir(parents=True)
        with placed(root, "flow/flow.py", {"TMPDIR": str(long)}) as flow:
            succeeds(flow)
            assert not list(long.glob("metaflow-sandbox-*/*"))


def test_what_is_no_code_beside_the_flow() -> None:
    """Guards against a flow that fails over a pipe or a dangling link that a local step never opens."""
    with live_directory() as root:
        (root / "flow").mkdir()
        (root / "flow" / "dangling.py").symlink_to("nowhere.py")
        os.mkfifo(root / "flow" / "pipe.py")
        with placed(root, "flow/flow.py") as flow:
            succeeds(flow)


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[tuple[str, ...]]:
    """The words to put before a command for which the directory is read-only."""
    if os.geteuid():
        directory.chmod(0o555)
        yield ()
        directory.chmod(0o755)
        return
    words = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", words, "sh", str(directory))
    if subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("root cannot mount here, and is not stopped by a directory's mode")
    yield prefix


def test_a_read_only_working_directory() -> None:
    """Guards against files of ours that are written beside the flow."""
    with live_directory() as root:
        (root / "flow").mkdir()
        shutil.copy(FLOWS / "rude_flow.py", root / "flow" / "flow.py")
        env = {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(root / "store")}
        with read_only(root / "flow") as prefix, placed(root, "flow/flow.py", env, prefix=prefix) as flow:
            succeeds(flow)


def test_code_that_is_too_large() -> None:
    """Guards against copying a data set into every sandbox, and against trying it again and again."""
    with live_directory() as root:
        (root / "flow").mkdir()
        (root / "flow" / "large.py").write_bytes(b"#" * (3 << 20))
        with placed(root, "flow/flow.py", {"METAFLOW_SANDBOX_MAX_CODE": "2"}) as flow:
            run = flow.finish()
            flow.assert_gone()
    assert run.returncode == 1
    assert "Traceback" not in run.output
    assert len(lines_of(run.output, "The flow's code is over 2 MiB")) == 1
    assert lines_of(run.output, "METAFLOW_SANDBOX_MAX_CODE")
    assert not lines_of(run.output, "] before")


# --- what is full or gone -----------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of that size; skips where none can be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def gate(root: Path, *arguments: str, env: Env | None = None, sandboxed: bool = True) -> LiveFlow:
    """A run of GateFlow."""
    flow = place_flow("gate_flow.py", root / "flow")
    return LiveFlow(flow, root, ("run", *arguments, *(SANDBOXED if sandboxed else ())), env or {})


def fails(flow: LiveFlow) -> FlowRun:
    """The run, which has failed in its body without a traceback of ours, and left no process."""
    try:
        run = flow.finish()
        flow.assert_gone()
    finally:
        flow.end()
    assert run.returncode == 1, run.output
    assert OURS not in run.output, run.output
    assert "end has" not in run.output
    return run


def test_a_full_datastore() -> None:
    """Guards against an artifact that is lost, half saved, or refused without a reason."""
    with live_directory() as root, small_disk(root / "store", "1m"):
        env = {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(root / "store")}
        run = fails(gate(root, "--size", "3000000", env=env))
    full = lines_of(
        run.output, "[sandbox] save failed on the launcher: OSError: [Errno 28] No space left on device"
    )
    assert len(full) == 1
    assert f"{root}/store" in full[0]


def test_a_full_temporary_directory() -> None:
    """Guards against a traceback where no sandbox can be made."""
    with live_directory() as root, small_disk(root / "small", "64k"):
        (root / "small" / "rest").write_bytes(b"x" * (60 << 10))
        with placed(root, "flow/flow.py", {"TMPDIR": str(root / "small")}) as flow:
            run = flow.finish()
        assert [entry.name for entry in (root / "small").rglob("*") if entry.is_file()] == ["rest"]
    assert run.returncode == 1
    assert "Traceback" not in run.output
    assert "No space left on device" in run.output
    assert "TMPDIR" in run.output


def test_a_full_disk_between_sandbox_and_datastore() -> None:
    """Guards against an artifact too large for the launcher's temporary directory that says nothing of it."""
    with live_directory() as root, small_disk(root / "small", "1m"):
        flow = gate(root, "--size", "8000000", env={"TMPDIR": str(root / "small")})
        run = fails(flow)
        full = lines_of(run.output, "[sandbox] save failed on the launcher: OSError: [Errno 28]")
        assert len(full) == 1
        assert "set TMPDIR" in full[0]
        assert f"{root}/small" in full[0]
        assert not list((root / "small").glob("metaflow-sandbox-run-*"))


def test_a_limit_on_the_size_of_files() -> None:
    """Guards the message where `ulimit -f` is what an artifact meets."""
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
    prefix = (sys.executable, "-c", f"{limit}os.execv(sys.argv[1], sys.argv[1:])")
    with live_directory() as root:
        flow = place_flow("gate_flow.py", root / "flow")
        run = fails(LiveFlow(flow, root, ("run", "--size", "3000000", *SANDBOXED), {}, prefix=prefix))
    assert (
        len(lines_of(run.output, "[sandbox] save failed on the launcher: OSError: [Errno 27] File too large"))
        == 1
    )


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_datastore_that_goes_away(what: str) -> None:
    """Guards against a run that hangs or passes when its datastore is gone; the same as locally."""
    outcomes = []
    for sandboxed in (False, True):
        with live_directory() as root:
            flow = gate(root, "--seconds", "2", sandboxed=sandboxed)
            flow.wait_for("body runs")
            store = root / "flow" / ".metaflow"
            store.rename(root / "gone")
            if what == "replaced":
                store.touch()
            run = fails(flow)
            outcomes.append(run.returncode)
    assert outcomes[0] == outcomes[1]


def test_a_bucket_that_goes_away(s3_server: Any, s3_settings: dict[str, str]) -> None:
    """Guards against a run that hangs when S3 cannot be reached any more."""
    with live_directory() as root:
        flow = gate(root, "--seconds", "3", env=s3_settings)
        flow.wait_for("body runs")
        s3_server.stop()
        run = fails(flow)
    assert lines_of(run.output, "failed on the launcher: MetaflowS3Exception")
    assert lines_of(run.output, "Could not connect to the endpoint URL")


@pytest.fixture
def s3_server() -> Iterator[Any]:
    """A server of buckets in this process, on a port of its own."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield server
    with contextlib.suppress(AttributeError):
        server.stop()


@pytest.fixture
def s3_settings(s3_server: Any) -> dict[str, str]:
    """The environment of a flow whose datastore is a bucket there, and which soon gives up on it."""
    boto3 = pytest.importorskip("boto3")
    host, port = s3_server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket="bad-input")
    return {
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": "s3://bad-input/metaflow",
        "METAFLOW_S3_ENDPOINT_URL": endpoint,
        "METAFLOW_S3_RETRY_COUNT": "0",
        "METAFLOW_S3_TRANSIENT_RETRY_COUNT": "1",
        "METAFLOW_S3_CLIENT_RETRY_CONFIG": '{"mode": "standard", "max_attempts": 1}',
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.mark.parametrize("program", [UPSTREAM, WHOLE], ids=["upstream", "whole"])
def test_a_metadata_service_that_goes_away(program: tuple[str, ...]) -> None:
    """Guards against a run that hangs or passes when its service is gone."""
    pytest.importorskip("metaflow_local_service")
    with live_directory() as root, running(program, root / "service") as service:
        flow = gate(root, "--seconds", "2", env={**service.env, "METAFLOW_SERVICE_RETRY_COUNT": "1"})
        flow.wait_for("body runs")
        service.command("stop")
        run = fails(flow)
    assert lines_of(run.output, "[sandbox] register_metadata failed on the launcher: ConnectionError")
