"""From requirements to a lock, by uv itself with an index of the tests' own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed
from metaflow_extensions.sandbox.packages import resolve as resolving
from metaflow_extensions.sandbox.packages.cache import PackageCache
from metaflow_extensions.sandbox.packages.resolve import Request, resolve

from .parts import Index, index, wheel

PURE = "demo-1.0-py3-none-any.whl"
ONE, TWO = (f"demo-2.0-cp311-cp311-manylinux_2_17_{machine}.whl" for machine in ("x86_64", "aarch64"))
PLAIN = "demo-2.0-py3-none-any.whl"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """demo 1.0 for all, 2.0 for some; needs needs demo; old is a source distribution."""
    two = wheel({}, version="2.0")
    needs = wheel(
        {}, "needs", METADATA="Metadata-Version: 2.1\nName: needs\nVersion: 1\nRequires-Dist: demo<2\n"
    )
    files = {PURE: wheel({}), ONE: two, TWO: two, PLAIN: two, "needs-1-py3-none-any.whl": needs}
    files["old-1.0.tar.gz"] = b"x"
    with index(files) as serving:
        for name, value in serving.settings.items():
            monkeypatch.setenv(name, value)
        yield serving


def asked(tmp_path: Path, *requirements: str, file: str = "", **changes: str) -> Request:
    return Request(
        requirements, file, **{"python": "3.11", "platform": "linux-64", **changes}, directory=tmp_path
    )


def answer(request: Request) -> list[str]:
    return [each.filename for each in resolve(request, PackageCache(request.directory / "cache")).wheels]


def test_what_is_needed_comes_along(served: Index, tmp_path: Path) -> None:
    """Guards the lock: exact files, with the hashes of the index."""
    lock = resolve(asked(tmp_path, "needs"), PackageCache(tmp_path / "cache"))
    assert [each.filename for each in lock.wheels] == [PURE, "needs-1-py3-none-any.whl"]
    assert lock.wheels[0].sha256 == hashlib.sha256(served.files[PURE]).hexdigest()
    assert lock.wheels[0].url == f"{served.url}/files/{PURE}"
    assert lock.names == ["demo==1.0", "needs==1"]


@pytest.mark.parametrize(
    ("platform", "python", "chosen"),
    [("linux-64", "3.11", ONE), ("linux-aarch64", "3.11", TWO), ("linux-64", "3.12", PLAIN)],
)
def test_the_wheel_for_the_place_is_chosen(
    served: Index, tmp_path: Path, platform: str, python: str, chosen: str
) -> None:
    """Guards the sandbox's platform and Python, which need not be the launcher's."""
    assert answer(asked(tmp_path, "demo", platform=platform, python=python)) == [chosen]


@pytest.mark.parametrize("requirement", ["absent", "demo==3", "old", "demo>1,<1", "a b"])
def test_what_cannot_be_resolved_is_named(served: Index, tmp_path: Path, requirement: str) -> None:
    """Guards packages that are not there, that contradict each other, and that would have to be built."""
    with pytest.raises(PackagesFailed, match=r"(?s)can't be resolved for Python 3\.11 on linux-64.*UV_INDEX"):
        answer(asked(tmp_path, requirement))


def test_an_answer_is_used_again_for_a_day(
    served: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the start of a second run, which asks nobody; and new versions, a day later."""
    request = asked(tmp_path, "demo")
    assert answer(request) == [ONE]
    before = len(served.asked)
    served.files["demo-3.0-py3-none-any.whl"] = wheel({}, version="3.0")
    assert answer(request) == [ONE]
    assert len(served.asked) == before
    monkeypatch.setattr(resolving, "FRESH", -1.0)
    assert answer(request) == ["demo-3.0-py3-none-any.whl"]


def test_files_that_lead_to_others_are_not_kept(served: Index, tmp_path: Path) -> None:
    """Guards against an answer that a change in a nested file would make wrong."""
    (tmp_path / "more.txt").write_text("demo==1.0")
    request = asked(tmp_path, file="-r more.txt\n")
    assert request.name is None
    assert answer(request) == [PURE]
    (tmp_path / "more.txt").write_text("demo==2.0")
    assert answer(request) == [ONE]


def test_other_settings_are_another_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the kept answers: another index may give another one."""
    request = asked(tmp_path, "demo")
    first = request.name
    monkeypatch.setitem(os.environ, "UV_DEFAULT_INDEX", "https://other.example/simple")
    second = request.name
    (tmp_path / "uv.toml").write_text("no-index = true")
    assert len({first, second, request.name}) == 3


def test_pinned_hashes_hold(served: Index, tmp_path: Path) -> None:
    """Guards hashes in a requirements file, against an index that has another file."""
    right = hashlib.sha256(served.files[PURE]).hexdigest()
    file = f"demo==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{{}}\n"
    assert answer(asked(tmp_path, file=file.format(right))) == [PURE]
    with pytest.raises(PackagesFailed, match=rf"{PURE}.*{right}|hash"):
        answer(asked(tmp_path, file=file.format("1" * 64)))


def test_nothing_asks_nobody(tmp_path: Path) -> None:
    """Guards python= alone: an environment without packages."""
    assert answer(asked(tmp_path)) == []
