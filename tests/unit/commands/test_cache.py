"""The commands of the cache: what is listed is what is there, and what is removed is what was named."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import pytest
from metaflow import metaflow_config

from metaflow_extensions.sandbox.commands import cache as commands
from metaflow_extensions.sandbox.packages.cache import PackageCache

A, B = "a" * 32, "b" * 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageCache:
    """One with two environments, the first of which was used two days ago."""
    monkeypatch.setattr(metaflow_config, "SANDBOX_CACHE", str(tmp_path / "cache"))
    found = PackageCache(tmp_path / "cache")
    for key in (A, B):
        facts = {"python": "3.11", "packages": [f"{key[0]}==1"]}
        with found.environment(key, facts, lambda draft: (draft / "f").write_bytes(b"x" * (1 << 20)), bool):
            pass
    day_before = time.time() - 2 * 24 * 3600
    os.utime(found.directory / "environments" / f"{A}.json", (day_before, day_before))
    return found


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    commands.add_arguments(parser)
    return commands.main(parser.parse_args(words))


def left(cache: PackageCache) -> list[str]:
    return [entry.name for entry in cache.entries()]


def test_listing(cache: PackageCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards what people read and what programs read: names, sizes, contents."""
    assert run("ls") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.endswith("2 entries, 2 MiB")
    assert first.startswith("a" * 12) and "a==1" in first and "1.0 MiB" in first
    assert second.startswith("b" * 12)
    run("ls", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert listed["version"] == 1
    assert [(entry["name"], entry["kind"], entry["size"]) for entry in listed["entries"]] == [
        (A, "environment", 1 << 20),
        (B, "environment", 1 << 20),
    ]


def test_removal_by_how_a_name_begins(cache: PackageCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against removing too much, and a name that is not there against being passed over."""
    assert run("rm", "aaaa", "zzz") == 1
    assert "'zzz'" in capsys.readouterr().err
    assert left(cache) == [B]


def test_what_is_in_use_stays(cache: PackageCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards running tasks, by name and by pruning."""
    with cache.environment(A, {}, lambda draft: None, bool):
        assert run("rm", A) == 1
        assert "in use" in capsys.readouterr().err
        assert run("prune") == 0
        assert left(cache) == [A]


def test_pruning_by_age_and_size(cache: PackageCache) -> None:
    """Guards --older and --size."""
    assert run("prune", "--older", "3") == 0
    assert left(cache) == [A, B]
    assert run("prune", "--size", "1.5") == 0
    assert left(cache) == [B]
    assert run("prune", "--older", "1") == 0
    assert left(cache) == [B]
    assert run("prune") == 0
    assert left(cache) == []
