"""The real runtime of BoxLite as far as this machine lets it: pulls, homes, failed boots, what they leave."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.errors import BackendUnavailable, StartFailed, UnsupportedOption

from .images import layout, why_no_images
from .kvm import why_no_machines
from .registry import PASSWORD, USER, Registry
from .waiting import until

boxlite = pytest.importorskip("boxlite", reason="the SDK is missing: pip install boxlite")

from metaflow_extensions.sandbox.backends.boxlite import boot, runtime, slots  # noqa: E402
from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend  # noqa: E402
from metaflow_extensions.sandbox.backends.kvm import check_machine  # noqa: E402

PATIENCE = 120.0  # seconds after which something hangs
# A process with a home of its own that makes boxes, or lists what a home has.
MAKE = """
import sys
from metaflow_extensions.sandbox.backends.boxlite import machine, runtime
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
found = runtime.runtime()
for number in range(int(sys.argv[2])):
    options = machine.machine(SandboxSpec(image=sys.argv[1]), remote=False)
    found.calls.call(lambda: found.sdk.create(options, name=f"left-{number}"), 30)
print(found.home, [info.name for info in found.calls.call(found.infos, 30)], flush=True)
sys.stdin.read()
"""
OPEN = """
import sys
from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
BoxliteBackend().open(SandboxSpec(image=sys.argv[1], memory=512))
"""


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Homes of the test's own; what is in the way of any machine is no failure of the backend."""
    if why_no_images():
        pytest.skip(str(why_no_images()))
    try:
        check_machine("boxlite")
    except BackendUnavailable as error:
        pytest.xfail(f"no virtual machine can be made here: {error}")
    for name in (*runtime.URLS, runtime.KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(slots.SETTING, str(tmp_path / "homes"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "homes"
    runtime._runtime.cache_clear()


def processes_of(directory: Path) -> list[str]:
    """Command lines of this machine that name the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(directory) in words:
            found.append(words)
    return found


def making(count: int) -> subprocess.Popen[str]:
    """A process that makes boxes and waits for the end of its input."""
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(layout()), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_check_is_quick_and_starts_nothing(homes: Path) -> None:
    """A check that boots a machine takes half a minute to fail."""
    BoxliteBackend().check()
    assert list((homes / "0" / "boxes").glob("*")) == []


def test_failed_boot_says_why_and_leaves_nothing(homes: Path, tmp_path: Path) -> None:
    """The SDK says no more than that it failed, and keeps the box with its disk."""
    if why_no_machines() is None:
        pytest.xfail("machines boot here")
    with pytest.raises(StartFailed, match=r"does not start.*shim\.stderr.*logs"):
        BoxliteBackend().open(SandboxSpec(image=str(layout()), memory=512))
    assert list((homes / "0" / "boxes").glob("*")) == []
    found = runtime.runtime()
    assert list(found.calls.call(found.infos, 30)) == []
    assert processes_of(homes) == []
    assert list((tmp_path / "metaflow-sandbox" / "boxlite").iterdir()) == []


def test_killed_while_it_boots_leaves_nothing(homes: Path, tmp_path: Path) -> None:
    """A boot takes seconds: whoever is killed meanwhile can't clean up."""
    with subprocess.Popen([sys.executable, "-c", OPEN, str(layout())]) as launcher:
        until(lambda: any("boxlite-shim" in words for words in processes_of(homes)))
        launcher.send_signal(signal.SIGKILL)
    until(lambda: not processes_of(homes))
    until(lambda: not list((tmp_path / "metaflow-sandbox" / "boxlite").glob("sbx-*")))
    until(lambda: not list((homes / "0" / "boxes").glob("*")))
    found = runtime.runtime()
    assert list(found.calls.call(found.infos, 30)) == []


def test_two_runs_have_two_homes_and_the_next_takes_the_first(homes: Path) -> None:
    """One runtime locks its home: the second of two at once would fail, and a new home has no images."""
    with making(0) as first, making(0) as second:
        assert first.stdout
        assert second.stdout
        taken = {first.stdout.readline().split()[0], second.stdout.readline().split()[0]}
        first.communicate("")
        second.communicate("")
    assert taken == {str(homes / "0"), str(homes / "1")}
    assert runtime.runtime().home == homes / "0"


def test_leftovers_of_the_dead_are_removed(homes: Path) -> None:
    """Boxes of a killed process stay in its home's database, and their names with them."""
    with making(20) as maker:
        assert maker.stdout
        assert "left-19" in maker.stdout.readline()
        maker.kill()
    found = runtime.runtime()
    assert found.home == homes / "0"
    assert list(found.calls.call(found.infos, 30)) == []


def test_homes_are_private(homes: Path) -> None:
    """Values of secrets are in the SDK's database as they are."""
    found = runtime.runtime()
    assert found.home
    assert [oct(path.stat().st_mode & 0o777) for path in (homes, found.home)] == ["0o700"] * 2


def test_home_of_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that can't be made is a setting's fault."""
    monkeypatch.setenv(slots.SETTING, "/proc/no")
    with pytest.raises(BackendUnavailable, match=slots.SETTING):
        slots.take(slots.base())


def test_pulled_once_for_all_runs(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull for each task, or for each run, takes longer than the task."""
    monkeypatch.setenv("METAFLOW_SANDBOX_BOXLITE_INSECURE_REGISTRIES", registry.addresses["open"])
    told: list[str] = []
    for _ in range(2):
        boot.pull(runtime.runtime(), registry.image(), told.append)
        runtime.runtime().close()
        runtime._runtime.cache_clear()
    assert [line.split()[0] for line in told] == ["pulling", "pulled"]


@pytest.mark.parametrize(
    ("kind", "tag", "raises", "says"),
    [
        ("open", "absent", UnsupportedOption, "there is no image"),
        ("private", "latest", UnsupportedOption, "docker login"),
        ("token", "latest", UnsupportedOption, "docker login"),
        ("broken", "latest", StartFailed, "503"),
    ],
)
def test_images_that_do_not_come(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    tag: str,
    raises: type[Exception],
    says: str,
) -> None:
    """The user's mistakes and a registry's failures, in the SDK's own words."""
    monkeypatch.setenv("METAFLOW_SANDBOX_BOXLITE_INSECURE_REGISTRIES", ",".join(registry.addresses.values()))
    with pytest.raises(raises, match=says):
        BoxliteBackend().open(SandboxSpec(image=registry.image(kind).replace("latest", tag)))


def test_login_of_docker_is_used(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A private image that docker pulls must not be denied here."""
    login = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.addresses["private"]: login}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("METAFLOW_SANDBOX_BOXLITE_INSECURE_REGISTRIES", registry.addresses["private"])
    told: list[str] = []
    boot.pull(runtime.runtime(), registry.image("private"), told.append)
    assert told[-1].startswith("pulled")


@pytest.mark.parametrize("image", ["/tmp", "NOT valid::"])
def test_what_is_no_image_is_refused(image: str) -> None:
    """A directory of files is no OCI layout."""
    with pytest.raises(UnsupportedOption, match="correct image="):
        BoxliteBackend().open(SandboxSpec(image=image))


def test_success_stays_one_at_exit() -> None:
    """The SDK's threads may abort an interpreter that ends at once."""
    program = (
        "from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend as B; B().check()"
    )
    codes = [subprocess.run([sys.executable, "-c", program], timeout=PATIENCE).returncode for _ in range(5)]
    assert codes == [0] * 5


def test_used_after_a_fork_says_so() -> None:
    """The SDK hangs there, without a word."""
    BoxliteBackend().check()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            BoxliteBackend().check()
        except BackendUnavailable as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert "fork" in said.read()
    os.waitpid(pid, 0)
