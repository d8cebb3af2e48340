"""Our metadata service when things go wrong: many at once, killed, two of them, no space, a taken port."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.bubblewrap import binary as bwrap_binary

from .ask_service import artifact, ask, entry, new_run, new_task
from .both_ways import SANDBOXED
from .harness import TIMEOUT, flow_environment, place_flow, read_results, run_flow
from .live import live_flow
from .recorder import recording
from .services import WHOLE, Service, running
from .waiting import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
POLL = 0.05  # seconds


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """One that runs."""
    with running(WHOLE, tmp_path) as service:
        yield service


def pid_of(service: Service) -> int:
    """The service's process."""
    found = re.search(r"pid=(\d+)", service.command("status"))
    assert found
    return int(found.group(1))


def one_task(url: str, run: str, number: int) -> str:
    """A task's whole life in requests; the task. Each has to succeed."""
    task = new_task(url, run, f"step{number % 5}")
    for path, body in (
        ("metadata", [entry("attempt", "0"), entry("number", str(number))]),
        ("artifact", [artifact(f"a{each}") for each in range(10)]),
        ("metadata", [entry("attempt-done", "0")]),
    ):
        answer = ask(url, "POST", f"{task}/{path}", body)
        assert answer.status == 200, answer
    assert ask(url, "POST", f"{task}/heartbeat", {}).status == 200
    return task


def assert_whole(url: str, tasks: list[str]) -> None:
    """The tasks have ids of their own and all that they registered."""
    assert len({task.rpartition("/")[2] for task in tasks}) == len(tasks)
    for task in tasks:
        assert len(ask(url, "GET", f"{task}/artifacts").json) == 10, task
        fields = {each["field_name"] for each in ask(url, "GET", f"{task}/metadata").json}
        assert fields == {"attempt", "number", "attempt-done"}, task


# --- many at once -----------------------------------------------------------------------------


def test_fifty_tasks_at_once(service: Service) -> None:
    """Guards against a task id given twice, lost records, and answers that are errors."""
    url = service.url
    runs = [new_run(url, "OneFlow"), new_run(url, "OtherFlow")]
    with ThreadPoolExecutor(50) as pool:
        tasks = [list(pool.map(lambda number, at=run: one_task(url, at, number), range(50))) for run in runs]
    for each in tasks:
        assert_whole(url, each)
    for run, each in zip(runs, tasks, strict=True):
        assert sorted(int(task.rpartition("/")[2]) for task in each) == list(range(1, 51)), run


def test_foreach_of_fifty_sandboxes(service: Service, tmp_path: Path) -> None:
    """Guards a whole flow with fifty tasks at once, through the relay."""
    script = """
from metaflow import FlowSpec, step

class WideFlow(FlowSpec):
    @step
    def start(self):
        self.numbers = list(range(50))
        self.next(self.body, foreach="numbers")

    @step
    def body(self):
        self.square = self.input**2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.squares = sorted(each.square for each in inputs)
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    WideFlow()
"""
    flow = tmp_path / "wide_flow.py"
    flow.write_text(script)
    run_flow(flow, "run", "--max-workers", "50", *SANDBOXED, env=service.env)
    told = """
from metaflow import Flow
run = Flow("WideFlow").latest_run
print(run.successful, len({task["square"].data for task in run["body"]}), len(run.data.squares))
"""
    assert read_results(tmp_path, told, service.env).split() == ["True", "50", "50"]


# --- killed -----------------------------------------------------------------------------------


def test_killed_and_started_again_nothing_is_lost(service: Service) -> None:
    """Guards everything that was answered before SIGKILL, ids that follow, and the port that clients know."""
    url = service.url
    run = new_run(url)
    kept: list[str] = []

    def register(number: int) -> None:
        while True:
            try:
                kept.append(one_task(url, run, number))
            except (OSError, HTTPException):  # killed before, or in the middle of an answer
                time.sleep(POLL)
            else:
                return

    with ThreadPoolExecutor(8) as pool:
        done = pool.map(register, range(60))
        until(lambda: len(kept) > 5, "task before the kill")
        os.kill(pid_of(service), signal.SIGKILL)
        assert "Started" in service.command("start")
        list(done)
    assert service.url == url
    assert len(kept) == 60
    assert_whole(url, kept)


@pytest.mark.parametrize("options", [(), SANDBOXED], ids=["plain", "sandboxed"])
def test_flow_outlives_a_killed_service(service: Service, options: tuple[str, ...]) -> None:
    """Guards a run in whose middle the service is killed: its heart beats on, and it reads as successful."""
    with recording(service.url) as recorder:
        env = {**service.env, "METAFLOW_SERVICE_URL": recorder.url}
        with live_flow("waiting_flow.py", "run", *options, env=env) as flow:
            flow.wait_for("ready")
            flow.until(lambda: recorder.heartbeats("WaitingFlow"), "heartbeat")
            os.kill(pid_of(service), signal.SIGKILL)
            service.command("start")
            before = len(recorder.heartbeats("WaitingFlow"))
            flow.until(lambda: len(recorder.heartbeats("WaitingFlow")) > before, "heartbeat afterwards")
            flow.kill("shim" if options else "step", signal.SIGUSR1)
            done = flow.finish()
            assert done.returncode == 0, done.output
            script = "from metaflow import Flow\nprint(Flow('WaitingFlow').latest_run.successful)"
            assert read_results(flow.directory, script, service.env).strip() == "True"


def test_run_brings_a_killed_service_back(tmp_path: Path) -> None:
    """Guards `service run`: a command that still runs finds the service where it was told."""
    service = Service(WHOLE, tmp_path)
    process = subprocess.Popen(
        [*WHOLE, "run", *SLEEP], cwd=tmp_path, env=service.environment(), stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: "http" in service.command("url", code=None), "service")
        url, pid = service.url, pid_of(service)
        os.kill(pid, signal.SIGKILL)
        until(lambda: service.command("url", code=None).strip() == url, "service again")
        assert pid_of(service) != pid
    finally:
        process.terminate()
        code = process.wait(TIMEOUT)
        service.command("stop", code=None)
    assert code == 128 + signal.SIGTERM


# --- two at once ------------------------------------------------------------------------------


def test_starts_at_once_make_one_service(tmp_path: Path) -> None:
    """Guards against two services for one store, of which one is found by nobody."""
    service = Service(WHOLE, tmp_path)
    try:
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda _: service.command("start"), range(4)))
        assert len({line.splitlines()[0].rpartition("pid=")[2] for line in said}) == 1
        assert sum(line.startswith("Started") for line in said) == 1
    finally:
        service.command("stop", code=None)


def test_two_homes_and_two_roots(tmp_path: Path) -> None:
    """Guards two users at once, and two projects of one user: each has a service and a store of its own."""
    with (
        running(WHOLE, tmp_path / "one") as one,
        running(WHOLE, tmp_path / "other") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        project = tmp_path / "one" / "project"
        project.mkdir()
        one.command("start", "--metaflow-root", str(project))
        urls = [one.url, other.url, one.command("url", "--metaflow-root", str(project)).strip()]
        assert len(set(urls)) == 3
        runs = list(pool.map(lambda url: new_run(url), urls[:2]))
        assert [ask(url, "GET", run).status for url, run in zip(urls, runs, strict=False)] == [200, 200]
        assert [flow["flow_id"] for flow in ask(urls[2], "GET", "/flows").json] == []
        one.command("stop", "--metaflow-root", str(project))
        assert one.url == urls[0]


@pytest.mark.parametrize("options", [(), SANDBOXED], ids=["plain", "sandboxed"])
def test_flows_at_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Guards two flows of one service, and another user's: each run is whole, and where it belongs."""

    def one(service: Service, number: int) -> str:
        flow = place_flow("small_flow.py", service.directory / f"flow{number}")
        # Their artifacts are with their records, wherever they run.
        env = {**service.env, "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(service.directory)}
        run = run_flow(flow, "run", "--number", str(number), *options, env=env).run_id
        script = (
            f"from metaflow import Run\nrun = Run('SmallFlow/{run}')\nprint(run.successful, run.data.total)"
        )
        return read_results(flow.parent, script, env).strip()

    with (
        running(WHOLE, tmp_path / "one") as mine,
        running(WHOLE, tmp_path / "other") as other,
        ThreadPoolExecutor(3) as pool,
    ):
        said = list(pool.map(one, (mine, mine, other), (1, 2, 3)))
        assert said == ["True 6", "True 20", "True 42"]
        runs = [len(ask(each.url, "GET", "/flows/SmallFlow/runs").json) for each in (mine, other)]
        assert runs == [2, 1]


# --- disks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), SANDBOXED], ids=["plain", "sandboxed"])
@pytest.mark.parametrize(
    ("mount", "cause"),
    [(("--size", str(200 << 10), "--tmpfs"), "full"), (("--ro-bind", "{}"), "read-only")],
    ids=["full", "read-only"],
)
def test_disk_that_takes_no_more(
    tmp_path: Path, mount: tuple[str, ...], cause: str, options: tuple[str, ...]
) -> None:
    """Guards against a flow that hangs, or fails without a reason, when the store cannot be written."""
    store, home = tmp_path / "store", tmp_path / "home"
    (store / ".metaflow").mkdir(parents=True)
    home.mkdir()
    inside = [
        str(bwrap_binary.find()),
        "--dev-bind",
        "/",
        "/",
        *(word.format(store) for word in mount),
        str(store),
    ]
    service = Service([*inside, *WHOLE], home)
    root = ("--metaflow-root", str(store))
    service.command("start", *root)
    try:
        env = {
            "METAFLOW_SERVICE_URL": service.command("url", *root).strip(),
            "METAFLOW_DEFAULT_METADATA": "service",
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(home),
            "METAFLOW_SANDBOX_HEARTBEAT": "light",
        }
        flow = place_flow("resume_flow.py", tmp_path / "flow")
        done = run_flow(flow, "run", *options, env=env, check=False)
    finally:
        service.command("stop", *root)
    assert done.returncode
    assert f"the metadata service cannot use its store, {store}" in done.output
    assert cause in done.output


def test_store_that_cannot_be_made(tmp_path: Path) -> None:
    """Guards against a start that waits for a service which has said why it ended."""
    (tmp_path / "file").write_text("")
    said = Service(WHOLE, tmp_path).command("start", "--metaflow-root", str(tmp_path / "file"), code=1)
    assert "cannot start" in said
    assert str(tmp_path / "file") in said


# --- ports and states -------------------------------------------------------------------------


def test_taken_port(tmp_path: Path) -> None:
    """Guards against a service that claims another program's port: it says so, and how to mend it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = Service(WHOLE, tmp_path).command("start", "--port", str(port), code=1)
    assert f"Port {port} of 127.0.0.1 cannot be used" in said
    assert "--port" in said


def test_stale_state(tmp_path: Path) -> None:
    """Guards a process and a port that are another program's by now: neither is taken for the service."""
    service = Service(WHOLE, tmp_path)
    with (
        running(WHOLE, tmp_path),
        subprocess.Popen(SLEEP) as innocent,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        (state,) = (tmp_path / ".metaflow-sandbox" / "service").glob("*.json")
        kept = state.read_text()
        service.command("stop")
        taken = {"pid": innocent.pid, "port": other.getsockname()[1]}
        for content in (json.dumps({**json.loads(kept), "pid": innocent.pid}), "{", "[]", "{}", ""):
            state.write_text(content)
            service.command("status", code=1)
            assert "No running" in service.command("stop")
        # Something that answers, though not as we do; for a while it is asked in vain.
        answering = threading.Thread(target=lambda: other.accept()[0].close())
        answering.start()
        state.write_text(json.dumps({**json.loads(kept), **taken}))
        assert "Started" in service.command("start")
        answering.join()
        assert innocent.poll() is None
        assert service.url != f"http://127.0.0.1:{taken['port']}"
        innocent.kill()


def test_stops_when_nobody_asks(tmp_path: Path) -> None:
    """Guards the idle stop: after the last request of any kind, not during a Client's work."""
    with running(WHOLE, tmp_path, "--idle-timeout", "3") as service:
        url = service.url
        for _ in range(8):
            time.sleep(0.5)
            assert ask(url, "GET", "/flows").status == 200
        # Its state goes as well; to ask for its status would be a request.
        until(lambda: not list((tmp_path / ".metaflow-sandbox" / "service").glob("*.json")), "end")
        service.command("status", code=1)


def test_loopback_only(service: Service) -> None:
    """Guards against other machines: nothing listens on any other address."""
    port = int(service.url.rpartition(":")[2])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rpartition(":")[2], 16) == port:
                listening.append(address.rpartition(":")[0])
    assert listening == ["0100007F"]


def test_command_behind_a_proxy(tmp_path: Path) -> None:
    """Guards `service run` where a proxy is set, which must not be asked for this machine; and exit codes."""
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    service = Service(WHOLE, tmp_path)
    script = "from metaflow import Metaflow; print(Metaflow().flows); raise SystemExit(7)"
    try:
        said = service.command("run", "--", sys.executable, "-c", script, code=7, env=proxy)
        assert "[]" in said
        assert "no such command" in service.command("run", "no-such-command", code=127)
        assert "Name the command" in service.command("run", code=2)
    finally:
        service.command("stop", code=None)


def test_without_the_extra(tmp_path: Path) -> None:
    """Guards the message of a machine that lacks the extra."""
    hide = "import sys; sys.modules['metaflow_local_service'] = None; "
    main = "from metaflow_extensions.sandbox.cli import main; sys.exit(main(['service', 'start']))"
    done = subprocess.run(
        [sys.executable, "-c", hide + main],
        cwd=tmp_path,
        env=flow_environment({"HOME": str(tmp_path)}),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"pip install 'metaflow-sandbox[service]'" in done.stderr
