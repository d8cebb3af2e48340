"""doctor, backends, ps, kill and cleanup on real bubblewrap sandboxes."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .commands import BROKEN, CLI, ROOT, SILENT, command, ended, opened, place_of
from .harness import TIMEOUT, flow_command, flow_environment, place_flow
from .live import LiveFlow, live_directory, live_flow

ONLY = ("--backend", "bubblewrap")
DOCUMENTED = (ROOT / "docs/commands.md").read_text()
# What every sandbox of `ps --json` has, as docs/commands.md promises it.
FIELDS = set(re.findall(r"\w+", re.findall(r"A \*sandbox\* is `\{(.*?)\}`", DOCUMENTED)[0]))


@pytest.fixture
def place() -> Iterator[dict[str, str]]:
    """The environment of a test whose sandboxes nobody else sees."""
    with live_directory() as root:
        yield place_of(root / "tmp")


def ids(env: dict[str, str], *words: str) -> list[str]:
    """What ps lists."""
    return [sandbox["id"] for sandbox in command("ps", "--json", *ONLY, *words, env=env).json["sandboxes"]]


def test_nothing_runs(place: dict[str, str]) -> None:
    """Guards what is seen first: an empty table, a cleanup without work, a kill of nothing."""
    listed = command("ps", *ONLY, env=place)
    assert (listed.code, listed.out, listed.err) == (0, "No sandboxes.\n", "")
    assert command("list", "--json", *ONLY, env=place).json == {
        "version": 1,
        "sandboxes": [],
        "unanswered": [],
        "unavailable": [],
    }
    assert command("cleanup", *ONLY, env=place).out == "Nothing to clean up.\n"
    assert command("kill", "--all", *ONLY, env=place).out == "No sandboxes.\n"


def test_all_backends_are_asked_by_default(place: dict[str, str]) -> None:
    """Guards against a table of installed backends that complains of those that can't run here."""
    env = {**place, "E2B_API_KEY": "", "METAFLOW_SANDBOX_E2B_API_KEY": ""}
    listed = command("ps", "--json", env=env)
    assert listed.code == 0, listed.err
    unavailable = {entry["backend"] for entry in listed.json["unavailable"]}
    assert "bubblewrap" not in unavailable
    said = command("ps", env=env).err
    assert said == (
        f"Not asked: {', '.join(sorted(unavailable))}; 'doctor' says why.\n" if unavailable else ""
    )


def test_a_hundred_sandboxes(place: dict[str, str]) -> None:
    """Guards against lists and ends that are wrong, or take too long, with many sandboxes."""
    with opened(100, place, busy=3) as opener:
        listed = command("ps", "--json", *ONLY, env=place).json["sandboxes"]
        assert {sandbox["id"] for sandbox in listed} == set(opener.ids)
        assert all(set(sandbox) == FIELDS for sandbox in listed)
        assert {(sandbox["state"], sandbox["user"], sandbox["attempt"]) for sandbox in listed} == {
            ("running", "tester", "0")
        }
        table = command("ps", *ONLY, env=place).out.splitlines()
        assert table[0].split() == ["ID", "BACKEND", "STATE", "AGE", "TASK", "ATTEMPT", "USER"]
        assert len(table) == 101
        assert "Flow/12/train/99" in "\n".join(table)
        assert command("cleanup", *ONLY, env=place).out == "Nothing to clean up.\n"
        killed = command("kill", "--run", "Flow/12", *ONLY, env=place)
        assert killed.code == 0
        assert killed.out.count("killed sbx-") == 100
        assert ids(place) == []


def test_sandboxes_are_chosen(place: dict[str, str]) -> None:
    """Guards against a kill that ends more than was meant."""
    with opened(2, place, run="1") as first, opened(2, place, run="2") as second:
        assert ids(place, "--run", "1") == ids(place, "--run", "Flow/1") == first.ids
        assert ids(place, "--task", "Flow/2/train/1") == [second.ids[1]]
        assert ids(place, "--flow", "Other") == ids(place, "--user", "somebody") == []
        assert set(ids(place, "--step", "train")) == {*first.ids, *second.ids}
        refused = command("kill", *ONLY, env=place)
        assert refused.code == 2
        assert "--all" in refused.err
        dry = command("kill", "--all", "--dry-run", *ONLY, env=place)
        assert dry.out.count("would kill") == 4
        assert len(ids(place)) == 4
        killed = command("kill", first.ids[0], "--json", *ONLY, env=place)
        assert [sandbox["id"] for sandbox in killed.json["killed"]] == [first.ids[0]]
        missing = command("kill", first.ids[0], *ONLY, env=place)
        assert missing.code == 1
        assert "'ps' shows which there are" in missing.err
        several = command("kill", "sbx-", *ONLY, env=place)
        assert several.code == 1
        assert second.ids[0] in several.err
        assert set(ids(place)) == {first.ids[1], *second.ids}


def test_orphans_are_cleaned_up(place: dict[str, str]) -> None:
    """Guards against a cleanup that leaves what a killed process left, or ends what another still uses."""
    with opened(3, place, run="1") as dead, opened(1, place, run="2") as living:
        dead.die()
        states = {s["id"]: s["state"] for s in command("ps", "--json", *ONLY, env=place).json["sandboxes"]}
        assert states == {**dict.fromkeys(dead.ids, "orphan"), living.ids[0]: "running"}
        dry = command("cleanup", "--dry-run", *ONLY, env=place)
        assert all(f"would remove the sandbox {sandbox}" in dry.out for sandbox in dead.ids)
        assert len(ids(place)) == 4
        cleaned = command("cleanup", "--json", *ONLY, env=place)
        assert cleaned.code == 0
        assert {sandbox["id"] for sandbox in cleaned.json["sandboxes"]} == set(dead.ids)
        assert ids(place) == living.ids


def test_what_no_run_has_made_is_left_alone(place: dict[str, str]) -> None:
    """Guards sandboxes of programs that use a backend themselves: nothing says that those are over."""
    with opened(1, place, owned=False) as opener:
        cleaned = command("cleanup", *ONLY, env=place)
        assert f"to end them: kill {opener.ids[0]}" in cleaned.out
        assert ids(place) == opener.ids


def test_what_was_half_made_is_cleaned_up(place: dict[str, str]) -> None:
    """Guards against directories of sandboxes whose launcher was killed before it had named them."""
    half = Path(place["TMPDIR"], f"metaflow-sandbox-{os.geteuid()}", "sbx-00000001")
    half.mkdir(parents=True)
    half.parent.chmod(0o700)
    assert command("cleanup", *ONLY, env=place).out == "Nothing to clean up.\n"
    long_ago = time.time() - 3600
    os.utime(half, (long_ago, long_ago))
    assert command("cleanup", *ONLY, env=place).out == f"removed the directory {half}\n"
    assert not half.exists()


@pytest.mark.parametrize("backend", [SILENT, BROKEN])
def test_a_provider_that_does_not_answer_costs_its_own_row(backend: str, place: dict[str, str]) -> None:
    """Guards against a table, a cleanup or a process that waits for ever for one provider."""
    env = {**place, "PYTHONPATH": str(ROOT)}
    both = (*ONLY, "--backend", backend, "--deadline", "3")
    reason = "did not answer within 3 s" if backend == SILENT else "RuntimeError: the provider's own words"
    with opened(1, place) as opener:
        listed = command("ps", "--json", *both, env=env)
        assert listed.code == 1
        assert [sandbox["id"] for sandbox in listed.json["sandboxes"]] == opener.ids
        assert [entry["backend"] for entry in listed.json["unanswered"]] == [backend]
        assert reason in command("ps", *both, env=env).err
        opener.die()
        cleaned = command("cleanup", *both, env=env)
        assert cleaned.code == 1
        assert reason in cleaned.err
        assert f"removed the sandbox {opener.ids[0]}" in cleaned.out
        doctor = command("doctor", "bubblewrap", backend, "--json", "--deadline", "3", env=env)
        assert doctor.code == 1
        found = {entry["name"]: entry for entry in doctor.json["backends"]}
        assert found["bubblewrap"]["ok"]
        assert reason in found[backend]["problem"]


def test_watching(place: dict[str, str]) -> None:
    """Guards against a --watch that shows the first look only, or does not end by Ctrl-C."""
    words = [*CLI, "ps", "--watch", "0.2", "--json", *ONLY]
    with subprocess.Popen(words, env=flow_environment(place), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert '"sandboxes": []' in process.stdout.readline()
        with opened(1, place) as opener:
            while opener.ids[0] not in (line := process.stdout.readline()):
                assert line, "it ended"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0


def test_a_trial(place: dict[str, str]) -> None:
    """Guards against a doctor that says yes where no sandbox can be made, or leaves the one that it made."""
    tried = command("doctor", "bubblewrap", "--try", env=place)
    assert tried.code == 0
    assert re.search(
        r"ok +bubblewrap +isolation container · opened in .* · 'sleep 1' took 1\.\d s", tried.out
    )
    assert ids(place) == []
    phases = command("doctor", "bubblewrap", "--try", "--json", env=place).json["backends"][0]["trial"]
    assert set(phases) == {"open", "run", "close"}
    assert phases["run"] >= 1


def test_what_is_missing_is_named(place: dict[str, str]) -> None:
    """Guards against a backend that can't run here without the words that mend it."""
    no_bwrap = {**place, "METAFLOW_SANDBOX_BWRAP_PATH": "/nonexistent/bwrap"}
    done = command("doctor", "--json", env=no_bwrap)
    assert done.code == 1
    found = {entry["name"]: entry for entry in done.json["backends"]}
    assert "METAFLOW_SANDBOX_BWRAP_PATH" in found["bubblewrap"]["problem"]
    assert done.json["default"] == "bubblewrap"
    assert command("doctor", "--json", env=place).json["ok"]
    unknown = command("doctor", "bubblewarp", env=place)
    assert unknown.code == 1
    assert "did you mean 'bubblewrap'?" in unknown.out


def test_what_json_has_is_documented(place: dict[str, str]) -> None:
    """Guards scripts against fields that are gone, or that nobody promised."""
    for words in (("ps",), ("kill", "--all"), ("cleanup",), ("doctor", "bubblewrap")):
        found = command(*words, "--json", *(() if words[0] == "doctor" else ONLY), env=place).json
        assert found.pop("version") == 1
        (row,) = [line for line in DOCUMENTED.splitlines() if line.startswith(f"| `{words[0]}` | `")]
        assert all(f"`{name}`" in row for name in found), (words, found)


def test_tables_on_a_terminal(place: dict[str, str]) -> None:
    """Guards the table that a person sees against one that only programs can read, and the reverse."""
    pytest.importorskip("rich")
    mine, theirs = pty.openpty()
    env = {**flow_environment(place), "TERM": "xterm", "COLUMNS": "200"}
    words = [*CLI, "backends"]
    with subprocess.Popen(words, env=env, stdout=theirs, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        # Linux says by an error that the other side is gone.
        with contextlib.suppress(OSError):
            while data := os.read(mine, 65536):
                shown += data
        assert process.wait(TIMEOUT) == 0
    os.close(mine)
    assert "─" in shown.decode()
    assert "─" not in command("backends", env=place).out
    assert b"bubblewrap" in shown


def test_backends(place: dict[str, str]) -> None:
    """Guards against a table that hides what isn't installed, or how to install it."""
    listed = {entry["name"]: entry for entry in command("backends", "--json", env=place).json["backends"]}
    assert listed["bubblewrap"]["installed"]
    assert listed["bubblewrap"]["isolation"] == "container"
    assert {"mount", "network_off"} <= set(listed["bubblewrap"]["features"])
    assert listed["docker"]["install"] == "pip install 'metaflow-sandbox[docker]'"
    assert set(listed) >= {"bubblewrap", "docker", "podman", "nitrobox", "pybox", "metalbox"}
    table = command("backends", env=place).out.splitlines()
    assert len(table) == len(listed) + 1


# --- behind a flow's file -----------------------------------------------------------------------


def flow_words(flow: LiveFlow, *words: str) -> list[str]:
    """``python FLOW sandbox …``."""
    return flow_command(flow.directory / "life_flow.py", "sandbox", *words)


def test_behind_a_flow(place: dict[str, str]) -> None:
    """Guards the commands of a flow: its own sandboxes, all others when asked."""
    with (
        live_directory() as root,
        live_flow(
            "life_flow.py", "run", "--width", "2", "--seconds", "600", "--with", "sandbox", root=root
        ) as flow,
    ):
        flow.wait_for("runs as attempt 0", 2)
        env = {"TMPDIR": str(flow.tmp), "XDG_RUNTIME_DIR": ""}
        with opened(1, env) as other:
            mine = ended(flow_words(flow, "ps", "--json", *ONLY), env, flow.directory).json["sandboxes"]
            assert {sandbox["id"] for sandbox in mine} == flow.sandboxes() - set(other.ids)
            assert {(sandbox["flow"], sandbox["state"]) for sandbox in mine} == {("LifeFlow", "running")}
            assert all(sandbox["supervisor"] and sandbox["user"] == "tester" for sandbox in mine)
            every = ended(flow_words(flow, "ps", "--json", "--flow", "all", *ONLY), env, flow.directory)
            assert len(every.json["sandboxes"]) == 3
            killed = ended(flow_words(flow, "kill", "--all", *ONLY), env, flow.directory)
            assert killed.out.count("killed sbx-") == 2
            run = flow.finish()
            assert run.returncode == 1
            assert "was destroyed by another process" in run.output
            assert ids(env) == other.ids


def test_doctor_asks_the_providers_of_a_flow(tmp_path: Path, place: dict[str, str]) -> None:
    """Guards against a doctor that finds a flow well whose metadata service does not answer."""
    flow = place_flow("small_flow.py", tmp_path)
    fine = ended(flow_command(flow, "sandbox", "doctor", "bubblewrap", "--json"), place, tmp_path)
    assert fine.code == 0
    assert {entry["name"]: entry["ok"] for entry in fine.json["providers"]} == {
        "datastore": True,
        "metadata": True,
    }
    dead = {**place, "METAFLOW_SERVICE_URL": "http://127.0.0.1:9", "METAFLOW_SERVICE_RETRY_COUNT": "1"}
    words = flow_command(flow, "--metadata", "service", "sandbox", "doctor", "bubblewrap", "--json")
    done = ended(words, dead, tmp_path)
    assert done.code == 1
    assert {entry["name"]: entry["ok"] for entry in done.json["providers"]} == {
        "datastore": True,
        "metadata": False,
    }


PARTS = ("scheduler", "reaper", "supervisor", "warden")


def kill_all(flow: LiveFlow) -> None:
    """Every process that would clean up, at the same moment."""
    pids = [process.pid for part in PARTS for process in flow.of_role(part)]
    # Stopped first: no one of them hears that another is gone.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)


@pytest.mark.parametrize("memory", ["", ":memory=512"])
def test_cleanup_after_a_crash_of_everything(memory: str) -> None:
    """Guards the last resort: whatever was killed, cleanup leaves nothing and says what it removed."""
    with live_directory() as root:
        words = ["run", "--width", "3", "--seconds", "600", "--with", f"sandbox{memory}"]
        with live_flow("life_flow.py", *words, root=root) as flow:
            flow.wait_for("runs as attempt 0", 3)
            env = {"TMPDIR": str(flow.tmp), "XDG_RUNTIME_DIR": ""}
            sandboxes = flow.sandboxes()
            kill_all(flow)
            flow.process.wait(TIMEOUT)
            said = command("cleanup", *ONLY, env=env).out
            assert all(f"removed the sandbox {sandbox}" in said for sandbox in sandboxes)
            assert "removed the directory" in said
            flow.assert_gone(sandboxes)
            assert command("cleanup", *ONLY, env=env).out == "Nothing to clean up.\n"


def age(directory: Path) -> None:
    """Let everything below be from an hour ago, as it is when somebody comes to clean up."""
    long_ago = time.time() - 3600
    for at, folders, _ in os.walk(directory):
        for name in folders:
            os.utime(Path(at, name), (long_ago, long_ago))


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.4, 0.7])
def test_cleanup_after_a_crash_at_any_moment(moment: float) -> None:
    """Guards what is made and not yet named anywhere when everything is killed."""
    with live_flow("life_flow.py", "run", "--width", "3", "--seconds", "600", "--with", "sandbox") as flow:
        flow.the("supervisor")
        time.sleep(moment)
        kill_all(flow)
        flow.process.wait(TIMEOUT)
        env = {"TMPDIR": str(flow.tmp), "XDG_RUNTIME_DIR": ""}
        age(flow.tmp)
        assert command("cleanup", *ONLY, env=env).code == 0
        flow.assert_gone()
        assert command("cleanup", *ONLY, env=env).out == "Nothing to clean up.\n"
