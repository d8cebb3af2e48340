"""``python -m benchmarks [NAME…]``: measure, print one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from .artifacts import artifacts
from .clouds import steps_in_clouds
from .direct import steps_with_a_bucket
from .flow_runs import foreach, linear
from .images import FLOOR, steps_in_images
from .machines import steps_in_machines
from .packages import second_run
from .report import Row, as_table
from .service import under_a_service
from .start import true_in_a_sandbox
from .waiting import waiting_tasks

CASES: Mapping[str, Callable[[Path, int], list[Row]]] = {
    "linear": linear,
    "foreach": foreach,
    "true": true_in_a_sandbox,
    "waiting": waiting_tasks,
    "artifacts": artifacts,
    "direct": steps_with_a_bucket,
    "packages": second_run,
    "images": steps_in_images,
    "clouds": steps_in_clouds,
    "machines": steps_in_machines,
    "service": under_a_service,
}


def main() -> int:
    """Return the exit code: 1 with ``--strict`` when a limit was passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CASES)}; all by default")
    parser.add_argument("--repeat", type=int, default=10, help="repetitions of each, default 10")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a limit is passed")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(CASES))
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(CASES)}")
    rows = []
    for name in options.names or [name for name in CASES if name != "images" or FLOOR in os.environ]:
        with tempfile.TemporaryDirectory(prefix="metaflow-sandbox-benchmark-") as directory:
            sys.stderr.write(f"{name} …\n")
            rows += CASES[name](Path(directory), options.repeat)
    print(as_table(rows, markdown=options.markdown))
    print(f"\n{options.repeat} repetitions in turns, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    return int(options.strict and not all(row.passed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
