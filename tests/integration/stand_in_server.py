"""The process of a stand-in: it serves on the loopback until its input ends, and prints its port first."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web

from .machine import bury_orphans


class Served(Protocol):
    """A server; ``url`` is set once it is known."""

    url: str

    def application(self) -> web.Application:
        """Its routes."""


async def serve(name: str, make: Callable[[Path], Served], port: int = 0) -> None:
    """Serve what is made for a directory of its own."""
    place = Path(tempfile.mkdtemp(prefix=name))
    server = make(place)
    runner = web.AppRunner(server.application(), shutdown_timeout=1)
    await runner.setup()
    burying = asyncio.ensure_future(bury_orphans())
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert site._server
    found = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{found}"
    sys.stdout.write(f"{found}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await runner.cleanup()
    burying.cancel()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place)
