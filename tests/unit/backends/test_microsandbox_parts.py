"""What the SDK's words, events and paths are taken for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("microsandbox", reason="the SDK is not installed: pip install microsandbox")

from microsandbox import PullEventType

from metaflow_extensions.sandbox.backends.interface import Secret
from metaflow_extensions.sandbox.backends.microsandbox import images, place
from metaflow_extensions.sandbox.backends.microsandbox.boot_log import BootLog
from metaflow_extensions.sandbox.backends.microsandbox.network import Placeholders
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    QuotaExceeded,
    StartFailed,
    UnsupportedOption,
)

REGISTRY = "image error: registry error: "


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (REGISTRY + "Not authorized: url http://127.0.0.1:46429/v2/x", UnsupportedOption),
        (
            REGISTRY + "Registry error: envelope: OCI API errors: [OCI API error: name unknown]",
            UnsupportedOption,
        ),
        ("image error: image not cached: x", UnsupportedOption),
        (REGISTRY + "error sending request for url (http://127.0.0.1:1/v2/x)", StartFailed),
        (REGISTRY + "Server error: code: 503", StartFailed),
        (REGISTRY + "code: 429, toomanyrequests", QuotaExceeded),
        ("cloud http error (429): too many sandboxes", QuotaExceeded),
        ("sandbox process exited (exit status: 1)", type(None)),
    ],
)
def test_what_a_failure_means(said: str, meant: type[object]) -> None:
    """Guards against retries of what stays wrong, and against a port's digits passing for a status."""
    assert type(images.refusal(Exception(said), "an/image")) is meant


@pytest.mark.parametrize(
    ("image", "archive"), [("python:3.12", False), ("host:5000/a/b", False), ("/a.tar", True), ("./a", True)]
)
def test_files_and_references_are_told_apart(image: str, archive: bool) -> None:
    """Guards against a reference that is looked for on the disk."""
    assert images.is_archive(image) is archive


def test_progress_is_told_at_both_ends_alone() -> None:
    """Guards the log against a line for each chunk, and silence during a pull."""
    told: list[str] = []
    progress = images.Progress("an/image", told.append)

    def hear(kind: PullEventType, **values: int) -> None:
        nothing = dict.fromkeys(["total_download_bytes", "layer_index", "downloaded_bytes"])
        progress.hear(SimpleNamespace(event_type=kind, **{**nothing, **values}))

    hear(PullEventType.RESOLVED, total_download_bytes=5 << 20)
    for size in range(100):
        hear(PullEventType.LAYER_DOWNLOAD_PROGRESS, layer_index=size % 2, downloaded_bytes=size << 10)
    hear(PullEventType.COMPLETE)
    assert told[0] == "pulling the image an/image (5 MiB)"
    assert told[1].startswith("pulled the image an/image in")
    assert len(told) == 2


def test_an_image_that_is_there_is_not_mentioned() -> None:
    """Guards the log of every task but the first."""
    told: list[str] = []
    progress = images.Progress("an/image", told.append)
    for kind in (PullEventType.RESOLVING, PullEventType.RESOLVED, PullEventType.COMPLETE):
        progress.hear(SimpleNamespace(event_type=kind, total_download_bytes=1 << 20))
    assert told == []


def test_placeholders_are_new_each_time() -> None:
    """Guards against one that a step of another run could have noted."""
    first, second = (Placeholders([Secret("A", "value", ("x.org",))]) for _ in range(2))
    assert first.variables["A"] != second.variables["A"]
    assert "value" not in first.variables["A"]
    assert Placeholders([]).inherited == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({place.URL: "http://x"}, place.KEY),
        ({place.KEY: "k"}, place.URL),
        ({"MSB_BACKEND": "cloud"}, "MSB_BACKEND"),
        ({"MSB_PROFILE": "p"}, "MSB_PROFILE"),
    ],
)
def test_half_settings_are_refused(environ: dict[str, str], said: str) -> None:
    """Guards against sandboxes somewhere else than meant."""
    with pytest.raises(BackendUnavailable, match=said):
        place.find(environ)


def test_places() -> None:
    """Guards the precedence of settings, and that a key is never shown."""
    cloud = place.find({place.URL: "http://x/", place.KEY: "k3y", "MSB_HOME": "/m"})
    assert (cloud.url, cloud.key) == ("http://x", "k3y")
    assert "k3y" not in repr(cloud) + cloud.label
    assert place.find({"MSB_HOME": "/m"}) == place.Place(None, Path("/m"))
    assert place.find({}).home == Path.home() / ".microsandbox"


LOG = """2026-11-21T07:26:02.945681Z  INFO microsandbox_runtime::runner::vm: sandbox starting
2026-11-21T07:26:13.105683Z \x1b[31mERROR\x1b[0m vmm::vstate: Received KVM_EXIT_INTERNAL_ERROR signal
"""


def test_a_boots_log_becomes_one_paragraph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against escape sequences, time stamps and a page of details in a task's log."""
    monkeypatch.delenv("METAFLOW_SANDBOX_MICROSANDBOX_LOGS", raising=False)
    directory = tmp_path / "sandboxes" / "sbx-1" / "logs"
    directory.mkdir(parents=True)
    (directory / "runtime.log").write_text(LOG)
    (directory / "kernel.log").write_text("")
    log = BootLog(tmp_path, "sbx-1")
    asyncio.run(log.follow())
    (directory / "runtime.log").unlink()  # as the SDK does
    said = log.paragraph()
    log.close()
    assert said.startswith(
        "Its runtime says: vmm::vstate: Received KVM_EXIT_INTERNAL_ERROR signal. The logs went"
    )
    assert "\n" not in said
