"""Wheels come whole, checked, once; else the message says which and from where."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed
from metaflow_extensions.sandbox.packages.cache import PackageCache
from metaflow_extensions.sandbox.packages.fetch import fetch, request
from metaflow_extensions.sandbox.packages.lock import Wheel

from .parts import index

NAME = "demo-1.0-py3-none-any.whl"
CONTENT = b"content" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()


def described(url: str, sha256: str = SHA) -> Wheel:
    return Wheel("demo", "1.0", NAME, f"{url}/files/{NAME}", sha256)


def test_a_wheel_is_fetched_once(tmp_path: Path) -> None:
    """Guards the cache of wheels, from which a second environment is made."""
    cache = PackageCache(tmp_path)
    with index({NAME: CONTENT}) as served:
        first = fetch([described(served.url)], cache)
        assert fetch([described(served.url)], cache) == first
        assert served.fetched(NAME) == 1
    assert first[0].read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    """Guards against what a disk or another program did to the cache."""
    cache = PackageCache(tmp_path)
    with index({NAME: CONTENT}) as served:
        (path,) = fetch([described(served.url)], cache)
        path.write_bytes(b"damaged")
        (path,) = fetch([described(served.url)], cache)
    assert path.read_bytes() == CONTENT


def test_another_hash_is_refused(tmp_path: Path) -> None:
    """Guards the lock: a file that changed on its way is not kept, and the message has both hashes."""
    with index({NAME: CONTENT}) as served, pytest.raises(PackagesFailed, match=f"{SHA}.*{'0' * 64}"):
        fetch([described(served.url, "0" * 64)], PackageCache(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("broken", [True, False])
def test_what_cannot_be_had_is_named(tmp_path: Path, broken: bool) -> None:
    """Guards a connection that breaks, again and again, and a file that is gone."""
    with index({NAME: CONTENT} if broken else {}, broken={NAME}) as served:
        with pytest.raises(PackagesFailed, match=rf"{NAME} can't be fetched from 127\.0\.0\.1"):
            fetch([described(served.url)], PackageCache(tmp_path))
        assert served.fetched(NAME) == (3 if broken else 1)


def test_files_of_this_machine(tmp_path: Path) -> None:
    """Guards indexes that are directories."""
    (tmp_path / NAME).write_bytes(CONTENT)
    wheel = Wheel("demo", "1.0", NAME, (tmp_path / NAME).as_uri(), SHA)
    (path,) = fetch([wheel], PackageCache(tmp_path / "cache"))
    assert path.read_bytes() == CONTENT


def test_names_and_passwords_go_to_their_host_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards credentials: from uv's settings or .netrc, and to no other host."""
    monkeypatch.setenv("UV_INDEX", "mine=https://me:s%40cret@packages.example/simple https://x.example/y")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine files.example login you password word\n")
    (tmp_path / ".netrc").chmod(0o600)
    expected = {
        "https://packages.example/a.whl": "Basic bWU6c0BjcmV0",
        "https://files.example/a.whl": "Basic eW91OndvcmQ=",
        "https://x.example/a.whl": None,
        "https://other.example/a.whl": None,
    }
    assert {url: request(url).get_header("Authorization") for url in expected} == expected
