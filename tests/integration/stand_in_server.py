"""The process of a stand-in: it serves on the loopback until its input ends, and prints its port first."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from aiohttp import web

from .machine import bury_orphans

REQUESTS = web.AppKey("REQUESTS", Counter[str])
"""How often it was asked for what, as "POST /path/{name}"; a server may count more than requests."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served(Protocol):
    """A server; ``url`` is set once it is known."""

    url: str

    def application(self) -> web.Application:
        """Its routes."""


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count what is let in."""
    resource = request.match_info.route.resource
    request.app[REQUESTS][f"{request.method} {resource.canonical if resource else request.path}"] += 1
    return await handler(request)


async def tell_requests(request: web.Request) -> web.Response:
    """What was asked for so far, the tests' own questions as well."""
    return web.json_response(request.app[REQUESTS])


async def serve(name: str, make: Callable[[Path], Served], port: int = 0) -> None:
    """Serve what is made for a directory of its own."""
    place = Path(tempfile.mkdtemp(prefix=name))
    server = make(place)
    application = server.application()
    application[REQUESTS] = Counter()
    application.middlewares.append(counted)
    application.router.add_get("/requests", tell_requests)
    runner = web.AppRunner(application, shutdown_timeout=1)
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
    shutil.rmtree(place, ignore_errors=True)  # machines that go remove theirs, too
