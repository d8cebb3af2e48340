"""Real flows whose sandboxed step attacks the launcher from inside: each attack is refused and seen."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .harness import FlowRun, flow_command, flow_environment, place_flow, read_results, run_flow
from .once import made_by_one, session_directory

RESULTS = """
import json
from metaflow import Run, namespace
namespace(None)
run = Run("HostileFlow/{run}")
task = run["strike"].task
print(json.dumps({{
    "successful": run.successful,
    "metadata": {{m.name: m.value for m in task.metadata}},
    "data": {{name: task[name].data for name in {names} if name in task}},
}}, default=str))
"""


def results(run: FlowRun, *names: str) -> Any:
    """What the Client API says of the step that attacked."""
    return json.loads(read_results(run.directory, RESULTS.format(run=run.run_id, names=list(names))))


@dataclass(frozen=True)
class Struck:
    """A run that was attacked, the run that came before it, and what the step saw."""

    run: FlowRun
    victim: FlowRun
    before: dict[str, bytes]
    canary: Path
    result: Any

    @property
    def answers(self) -> dict[str, str]:
        answers: dict[str, str] = self.result["data"]["answers"]
        return answers


def files(directory: Path, run_id: str) -> dict[str, bytes]:
    """Everything stored of a run, and all blobs, by path."""
    root = directory / ".metaflow"
    paths = [*root.glob(f"HostileFlow/{run_id}/**/*"), *root.glob("HostileFlow/data/**/*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Struck:
    """One run in which a step tries everything that is refused without ending it."""
    shared = session_directory(tmp_path_factory, "struck")
    return made_by_one(shared, "struck", lambda: strike_and_go_on(shared / "place"))


def strike_and_go_on(place: Path) -> Struck:
    """Run an honest flow, then one that attacks it."""
    flow = place_flow("hostile_flow.py", place / "flow")
    victim = run_flow(flow, "run")
    before = files(flow.parent, victim.run_id)
    document = next(content for path, content in before.items() if path.endswith("/start/1/0.data.json"))
    known = json.dumps({"run": victim.run_id, "key": json.loads(document)["objects"]["secret_of_the_run"]})
    canary = place / "canary"
    run = run_flow(flow, "run", "--attack", "shrug", "--canary", str(canary), "--victim", known)
    return Struck(run, victim, before, canary, results(run, "answers", "notes"))


def test_every_attack_is_refused(struck: Struck) -> None:
    """Guards against any of the requests being carried out."""
    let_through = {
        name: answer for name, answer in struck.answers.items() if not answer.startswith("refused: ")
    }
    assert let_through == {}
    assert len(struck.answers) > 70


def test_nothing_of_the_attackers_ran(struck: Struck) -> None:
    """Guards against a pickle, a changed flow or a planted module being run by the launcher or the client."""
    assert [path.name for path in struck.canary.parent.iterdir()] == ["flow"]


def test_the_run_goes_on(struck: Struck) -> None:
    """Guards against a run that refusals break, and against a next step that runs the attacker's code."""
    assert struck.result["successful"] is True
    assert re.search(r"/after/\d+ \(pid \d+\)\] after: outside None", struck.run.output)
    assert "'numbers': [1, 2.5]" in struck.run.output


def test_the_other_run_is_as_it_was(struck: Struck) -> None:
    """Guards against another run's artifacts, blobs, records or metadata being changed."""
    after = files(struck.run.directory, struck.victim.run_id)
    assert {path: after.get(path) for path in struck.before} == struck.before
    assert {path for path in after if f"/{struck.victim.run_id}/" in path} == {
        path for path in struck.before if f"/{struck.victim.run_id}/" in path
    }


def test_no_file_is_where_it_should_not_be(struck: Struck) -> None:
    """Guards against names that escape from the directory they belong to."""
    root = struck.run.directory
    names = [path.name for path in root.rglob("*")]
    assert not [name for name in names if "escaped" in name or "sitecustomize" in name or name == "json.py"]
    assert sorted(path.name for path in root.iterdir() if path.name != "__pycache__") == [
        ".metaflow",
        "hostile_flow.py",
    ]
    assert {path.name for path in (root / ".metaflow").iterdir()} <= {"HostileFlow", "mf.cards"}


def test_refusals_are_seen(struck: Struck) -> None:
    """Guards against attacks that leave no trace in the task's log and metadata."""
    lines = [line for line in struck.run.output.splitlines() if "[sandbox] refused: " in line]
    assert len(lines) >= 19
    assert any("artifact '_transition' refused" in line and "io.open" in line for line in lines)
    assert "[sandbox] further refusals are not shown" in struck.run.output
    # Connections over the limit are told of together, and what is no frame is refused, too.
    assert int(struck.result["metadata"]["sandbox-refusals"]) >= len(struck.answers)


def test_records_of_the_launcher_stand(struck: Struck) -> None:
    """Guards against a task that writes its own certificate."""
    metadata = struck.result["metadata"]
    assert metadata["sandbox-isolation"] == "container"
    assert metadata["attempt"] == "0"
    assert metadata["ds-root"].endswith("/.metaflow")
    assert "log_location_stdout" not in metadata


def test_the_log_is_harmless(struck: Struck) -> None:
    """Guards against lines with another's timestamp or voice, and against bytes that drive a terminal."""
    output = struck.run.output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", output)
    assert "1999-01-01 00:00:00" not in output
    assert output.count("forged by the step") == 2
    assert "> [sandbox] bubblewrap forged" in output
    assert not re.search(r"\)\] \[sandbox\] (bubblewrap )?forged", output)
    assert r"\x1b]0;title\x07" in output
    logs = subprocess.run(
        flow_command(struck.run.directory / "hostile_flow.py", "logs", f"{struck.run.run_id}/strike"),
        cwd=struck.run.directory,
        env=flow_environment(),
        capture_output=True,
        check=True,
    ).stdout
    assert b"forged by the step" in logs
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", logs)


def test_the_code_is_read_only(struck: Struck) -> None:
    """Guards against a step that edits what later steps run."""
    notes, _, _ = struck.result["data"]["notes"]
    assert set(notes.values()) <= {"OSError", "PermissionError", "FileNotFoundError"}, notes
    flow = struck.run.directory / "hostile_flow.py"
    assert str(struck.canary) not in flow.read_text()


def test_no_descriptor_is_inherited(struck: Struck) -> None:
    """Guards against descriptors of the launcher's in the step or in its guest."""
    _, descriptors, _ = struck.result["data"]["notes"]
    inherited = [
        target for target in descriptors.values()
        if not target.startswith(("pipe:", "socket:", "/proc/", "/dev/null", "/memfd:", "anon_inode:"))
    ]  # fmt: skip
    assert inherited == []
    assert len(descriptors) <= 8


# --- attacks that end the run -----------------------------------------------------------------


def strike(place: Path, attack: str, *options: str, **env: str) -> tuple[FlowRun, Path]:
    flow = place_flow("hostile_flow.py", place / "flow")
    canary = place / "canary"
    run = run_flow(flow, *options, "run", "--attack", attack, "--canary", str(canary), check=False, env=env)
    return run, canary


@pytest.mark.parametrize("attack", ["transition", "exit"])
def test_a_result_that_is_refused_fails_the_task(tmp_path: Path, attack: str) -> None:
    """Guards against a scheduler that reads results which were refused, or waits for them."""
    run, canary = strike(tmp_path, attack)
    assert run.returncode != 0
    assert "artifact '_t" in run.output
    assert "refused" in run.output
    assert "it names io.open" in run.output
    assert "/after/" not in run.output
    assert list(tmp_path.iterdir()) == [tmp_path / "flow"]
    assert not canary.exists()
    assert int(results(run)["metadata"]["sandbox-refusals"]) >= 1


def test_documents_that_readers_trip_over(tmp_path: Path) -> None:
    """Guards against nested, huge, ambiguous and incomplete lists of artifacts."""
    run, _ = strike(tmp_path, "documents")
    assert run.returncode == 0, run.output
    found = results(run, "answers")
    assert set(found["data"]["answers"]) == {"nested", "huge", "parts", "duplicate", "no json", "missing"}
    assert all(answer.startswith("refused: ") for answer in found["data"]["answers"].values()), found


def test_a_killed_guest(tmp_path: Path) -> None:
    """Guards against a step that ends its guest and is waited for, or counts as done."""
    run, _ = strike(tmp_path, "kill")
    assert run.returncode != 0
    assert "Task failed" in run.output
    assert "Traceback" not in run.output
    assert "/after/" not in run.output


def test_endless_output(tmp_path: Path) -> None:
    """Guards against output that fills the launcher's disk, and a step that no limit ends."""
    run, _ = strike(tmp_path, "endless", METAFLOW_SANDBOX_TIMEOUT="3", METAFLOW_SANDBOX_MAX_OUTPUT="1")
    assert run.returncode != 0
    assert "has written 1 MiB of output; the rest is dropped" in run.output
    assert "METAFLOW_SANDBOX_MAX_OUTPUT" in run.output
    assert "CommandTimeout: the step was ended after its limit of 3 s" in run.output
    assert len(run.output) < 4 << 20


def test_floods(tmp_path: Path) -> None:
    """Guards against bombs and floods that fill the memory or the disk of the launcher."""
    flow = place_flow("hostile_flow.py", tmp_path / "flow")
    process = subprocess.Popen(
        flow_command(flow, "run", "--attack", "flood"),
        cwd=flow.parent,
        env=flow_environment({"METAFLOW_SANDBOX_MAX_ARTIFACT": "4", "METAFLOW_SANDBOX_MAX_UPLOAD": "48"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    watch = PeakMemory(process.pid)
    output = process.communicate(timeout=200)[0].decode()
    peak = watch.stop()
    assert process.returncode != 0
    answers = json.loads(re.search(r"FLOOD (\{.*\})", output)[1])  # type: ignore[index]
    assert "its content is over 4194304 bytes" in answers["bomb"]
    for flooded in ("records", "upload"):
        assert "METAFLOW_SANDBOX_MAX_UPLOAD sets the limit" in answers[flooded]
    stored = sum(path.stat().st_size for path in (flow.parent / ".metaflow").rglob("*") if path.is_file())
    assert stored < 64 << 20
    # 60 MiB of it are Metaflow.
    assert 0 < peak < 260 << 10, f"{peak >> 10} MiB"


class PeakMemory:
    """The most memory, in KiB, that any supervisor below a process has had."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for pid in list(below(self._pid)):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                found = re.search(r"VmHWM:\s+(\d+)", status)
                if b"supervisor/main.py" in command and found:
                    self._peak = max(self._peak, int(found[1]))


def below(pid: int) -> Iterator[int]:
    """All descendants of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from below(child)


# --- artifacts under METAFLOW_SANDBOX_ARTIFACTS=vetted ----------------------------------------


def test_vetted_data(tmp_path: Path) -> None:
    """Guards against refusing plain data, or a custom class that an unsandboxed step has made."""
    run, _ = strike(tmp_path, "vetted", METAFLOW_SANDBOX_ARTIFACTS="vetted")
    assert run.returncode == 0, run.output
    assert "sandbox-refusals" not in results(run)["metadata"]


def test_vetted_class(tmp_path: Path) -> None:
    """Guards against a custom class that leaves the sandbox unasked, and a refusal that does not help."""
    run, _ = strike(tmp_path, "vetted-custom", METAFLOW_SANDBOX_ARTIFACTS="vetted")
    assert run.returncode != 0
    assert "artifact 'mine' refused" in run.output
    assert "METAFLOW_SANDBOX_ARTIFACT_GLOBALS" in run.output


def test_vetted_class_that_is_trusted(tmp_path: Path) -> None:
    """Guards against a setting that does not open what it names."""
    run, _ = strike(
        tmp_path,
        "vetted-custom",
        METAFLOW_SANDBOX_ARTIFACTS="vetted",
        METAFLOW_SANDBOX_ARTIFACT_GLOBALS="__main__.Model",
    )
    assert run.returncode == 0, run.output
