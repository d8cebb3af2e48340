"""TourFlow both ways, and what has to come of it over any datastore and metadata provider."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

from .both_ways import BothWays, assert_same, run_both_ways
from .harness import read_results

BYTES = bytes(range(256))
FILES = {
    "words.txt": "zwölf Boxkämpfer\n".encode(),
    "bytes.bin": BYTES,
    "settings.json": b'{"name": "configured"}',
}
DESCRIBE_CARDS = Path(__file__).with_name("describe_cards.py").read_text()


def run_tour(directory: Path, env: Mapping[str, str], reading: Mapping[str, str] | None = None) -> BothWays:
    """TourFlow both ways, in an environment that names the datastore and the metadata provider."""
    return run_both_ways("tour_flow.py", "TourFlow", directory, files=FILES, env=env, reading=reading)


def check_tour(both: BothWays) -> None:
    """The same results, and the right ones."""
    assert_same(both)
    run = both.sandboxed
    assert run.run["successful"]
    assert all("sandbox-id" in task["metadata"] for task in run.tasks.values())
    assert ast.literal_eval(run.value("end", "squares")) == [0, 1]
    assert ast.literal_eval(run.value("end", "others")) == [0, 1]
    included = ast.literal_eval(run.value("start", "included"))
    assert included == ["zwölf Boxkämpfer\n", BYTES, "configured"]
    assert run.tasks["body[1]#1"]["attempt"] == 1
    assert run.tasks["body[1]#1"]["stdout"] == ["attempt 1 of 1"]
    assert run.value("start", "foreign") == "[]"


def check_cards(both: BothWays, env: Mapping[str, str]) -> None:
    """The cards of the two runs, read from where Metaflow keeps them."""
    plain, sandboxed = (
        json.loads(
            read_results(
                run.process.directory,
                f"{DESCRIBE_CARDS}\nrun = Run('TourFlow/{run.run['id']}', _namespace_check=False)\n"
                "found = {task.index: cards_of(task, run.id) for task in run['body']}\n"
                "print(json.dumps(found, sort_keys=True))",
                env,
            )
        )
        for run in (both.plain, both.sandboxed)
    )
    assert plain == sandboxed
    assert [len(cards) for cards in sandboxed.values()] == [1, 1]
    assert "The card of part 1" in json.dumps(sandboxed["1"])
