"""What is sampled of a sandbox, from a /proc of our own making and from the real one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.plugins import samples
from metaflow_extensions.sandbox.plugins.samples import Sample


def process(proc: Path, pid: str, name: str, times: tuple[int, int, int, int], resident: int) -> None:
    """A process as /proc shows it."""
    fields = ["S", *["0"] * 10, *map(str, times), *["0"] * 6, str(resident), "0"]
    (proc / pid).mkdir()
    (proc / pid / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}")


def test_all_processes_count(tmp_path: Path) -> None:
    """A tool that the step started uses more than the step itself; a name may hold spaces and brackets."""
    process(tmp_path, "self", "python", (0, 0, 0, 0), 0)
    process(tmp_path, "7", "python", (100, 50, 30, 20), 256)
    process(tmp_path, "8", "a) S 9 (b", (200, 0, 0, 0), 512)
    (tmp_path / "9").mkdir()  # ended since it was listed
    found = samples.usage(tmp_path)
    assert found.cpu == pytest.approx(400 / os.sysconf("SC_CLK_TCK"))
    assert found.memory == pytest.approx(768 * os.sysconf("SC_PAGE_SIZE") / (1 << 20))


def test_without_proc_the_step_counts_itself(tmp_path: Path) -> None:
    """macOS has no /proc, and a card without a chart there would be a loss."""
    found = samples.usage(tmp_path / "nothing")
    assert found.memory > 1
    assert found.cpu > 0


def test_fields_are_those_of_proc() -> None:
    """An offset wrong by one counts page faults for memory."""
    found = samples.usage()
    assert 1 < found.memory < 1 << 24
    assert found.cpu > 0


def test_thinning_keeps_both_ends() -> None:
    """A chart that loses its last point ends before the step does."""
    every = [Sample(float(number), 0.0, 0.0) for number in range(7)]
    assert [sample.time for sample in samples.thinned(every)] == [0, 2, 4, 6]
    assert [sample.time for sample in samples.thinned(every[:6])] == [0, 2, 4, 5]


def test_samples_are_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The card is made by another process, which finds them by the temporary directory alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert samples.read_samples() == []
    samples.place().write_text(json.dumps([[1, 2, 3]]))
    assert samples.read_samples() == [Sample(1.0, 2.0, 3.0)]


@pytest.mark.parametrize("text", ["", "{}", '{"a": 1}', "[[1, 2]]", '[["x", 1, 2]]', "[1]", "null"])
def test_what_the_step_overwrote_is_no_sample(tmp_path: Path, text: str) -> None:
    """The file is the step's to spoil; its card is then without charts, and is made."""
    file = tmp_path / "samples.json"
    file.write_text(text)
    assert samples.read_samples(file) == []
