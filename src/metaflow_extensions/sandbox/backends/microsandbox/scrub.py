"""Lets microsandbox's database forget what was deleted; run as ``python scrub.py DATABASE``.

A process of its own: the SDK has an SQLite of its own, and when a second one in a process closes the file,
the locks of the first are gone.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time

TRIES = 40
BUSY = 10.0  # seconds that another may keep the database locked


def main(database: str) -> None:
    """Rewrite it without its free pages, and empty its log."""
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY, isolation_level=None)) as connection:
        for _ in range(TRIES):
            with contextlib.suppress(sqlite3.OperationalError):  # another of the user's processes writes
                connection.execute("VACUUM")
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not busy:
                    return
            time.sleep(0.05)
    sys.exit(f"{database} is in use: what was deleted may still be in it")


if __name__ == "__main__":
    main(sys.argv[1])
