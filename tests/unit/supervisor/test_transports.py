"""What a sandbox is shown, or sent: nothing of the launcher's that is not meant for it."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature, Mount, SandboxSpec
from metaflow_extensions.sandbox.guest.unpack import SIZE
from metaflow_extensions.sandbox.supervisor.archives import Archives, framed, task_archive
from metaflow_extensions.sandbox.supervisor.inside import files_of
from metaflow_extensions.sandbox.supervisor.protocol import RunSettings
from metaflow_extensions.sandbox.supervisor.transports import Mounts, Pipes, Surroundings, transport
from metaflow_extensions.sandbox.supervisor.watcher import Watcher

from ..relay.parts import Bench, short_directory
from .test_inside import ARGV, TASK

MOUNTS = frozenset({Feature.MOUNT, Feature.STDIN})


@pytest.fixture
def here() -> Iterator[Surroundings]:
    """A task of a flow with one file, whose image has no Metaflow."""
    with short_directory() as place:
        library = place / "site-packages" / "metaflow"
        (library / "tutorials").mkdir(parents=True)
        (library / "__init__.py").touch()
        (place / "code").mkdir()
        (place / "code" / "flow.py").write_text("code")
        run = RunSettings(
            flow="Flow",
            run="1",
            script="/flows/flow.py",
            directory=str(place),
            control=-1,
            sys_path=[],
            metadata="local",
            local_root="",
            datastore="local@/store",
            libraries={"metaflow": str(library)},
        )
        spec = SandboxSpec(image="python", mounts=[Mount(Path("/data"), PurePosixPath("/data"))])
        watcher = Watcher()
        yield Surroundings(
            run,
            dataclasses.replace(TASK, spec=spec),
            ARGV,
            place,
            watcher,
            lambda: place / "code",
            Archives(place, run.libraries),
            lambda: files_of(ARGV),
        )
        watcher.stop()


def test_only_the_relay_is_writable(here: Surroundings) -> None:
    """Guards the code, Metaflow and the user's mounts, which are read-only."""
    way = transport(MOUNTS, Bench(here.directory).relay, here)
    assert isinstance(way, Mounts)
    assert {str(mount.target): mount.read_only for mount in way.spec().mounts} == {
        "/data": True,
        "/run/metaflow-sandbox/code": True,
        "/run/metaflow-sandbox/relay": False,
        "/run/metaflow-sandbox/lib/metaflow": True,
    }
    assert way.command().argv[3] == "/run/metaflow-sandbox/lib/metaflow_extensions/sandbox/guest/bootstrap.py"
    way.close()


def test_files_of_options_are_copied(here: Surroundings) -> None:
    """Guards files that Metaflow names on the command line: a copy is shown, not the launcher's own."""
    config = here.directory / "tmpconfig"
    config.write_text("{}")
    argv = [*ARGV, "--local-config-file", str(config)]
    naming = dataclasses.replace(here, argv=argv, files=lambda: files_of(argv))
    way = transport(MOUNTS, Bench(here.directory).relay, naming)
    shown = {str(mount.target): mount for mount in way.spec().mounts}["/run/metaflow-sandbox/config.json"]
    assert shown.source != config
    assert shown.source.read_text() == "{}"
    way.close()


def test_without_mounts_all_goes_over_stdin(here: Surroundings) -> None:
    """Guards a backend without mounts against being asked for some."""
    way = transport(frozenset({Feature.STDIN}), Bench(here.directory).relay, here)
    assert isinstance(way, Pipes)
    assert way.spec() == here.task.spec
    assert way.command().stdin


def test_archives_hold_what_is_needed(here: Surroundings) -> None:
    """Guards what is sent: no tutorials, no names of users, Metaflow only where it is missing."""

    def members(path: Path) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(path) as archive:
            return {member.name: member for member in archive.getmembers()}

    hosted = members(here.archives.of_run(here.code(), hosted=True))
    whole = members(here.archives.of_run(here.code(), hosted=False))
    assert {"guest/stdio.py", "guest/run.py", "code/flow.py"} <= set(hosted)
    assert set(whole) - set(hosted) == {"lib/metaflow", "lib/metaflow/__init__.py"}
    assert {(member.uid, member.uname) for member in whole.values()} == {(0, "")}


def test_far_sandboxes_are_sent_less(here: Surroundings) -> None:
    """Guards what goes over the internet with each task: the same archive, compressed."""
    near = here.archives.of_run(here.code(), hosted=False)
    far = here.archives.of_run(here.code(), hosted=False, compressed=True)
    assert zlib.decompress(far.read_bytes()) == near.read_bytes()
    assert far.stat().st_size < near.stat().st_size / 2


def test_archives_are_framed(here: Surroundings) -> None:
    """Guards the lengths, by which the guest knows where the relay's frames begin."""
    archive = task_archive({"config.json": here.directory / "code" / "flow.py"}, here.directory)
    sent = b"".join(framed(archive, archive))
    (size,) = SIZE.unpack(sent[: SIZE.size])
    assert sent[SIZE.size : SIZE.size + size] == archive.read_bytes()
    assert len(sent) == 2 * (SIZE.size + size) + SIZE.size
    # One piece: each small one is a call to the provider of its own.
    assert len(list(framed(archive, archive))) == 1
    assert sent[-SIZE.size :] == SIZE.pack(0)
    with tarfile.open(fileobj=io.BytesIO(sent[SIZE.size :])) as first:
        assert first.getnames() == ["config.json"]
