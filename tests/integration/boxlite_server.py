"""A stand-in for ``boxlite serve``: its REST API on the loopback, and boxes whose commands really run.

It does what the server of BoxLite 0.10 was read to do, with machines of ``machine.py``. No image is pulled: a
reference to a registry on the loopback is asked for there, any other is taken to exist. It prints its port,
and ends with its standard input. ``POST /faults`` makes it fail as asked, see ``Faults``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from .images import PATH
from .machine import Machine, Running
from .stand_in import KEY_VARIABLE
from .stand_in_server import serve

CHUNK = 32 * 1024  # bytes
STDOUT, STDERR = b"\1", b"\2"
ENVIRONMENT = {"PATH": PATH, "OF_THE_IMAGE": "1"}  # the test image's


@dataclass
class Faults:
    """What goes wrong: each is off unless set.

    After ``drop_after`` bytes of output a connection is cut. ``boot`` is why no box starts, ``frame`` the
    longest frame of output in bytes, ``delay`` is seconds between two frames, ``full`` refuses another box.
    """

    drop_after: int = 0
    boot: str = ""
    frame: int = 0
    delay: float = 0.0
    full: bool = False


class Refused(Exception):
    """What the server answers instead."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Execution:
    """A command, whose output is kept until it is attached to, and from then on never."""

    running: Running
    attached: web.WebSocketResponse | None = None
    early: list[bytes] = field(default_factory=list)
    was_attached: bool = False
    drained: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Box:
    """A machine that is made when it starts."""

    id: str
    options: dict[str, Any]
    created: str
    status: str = "configured"
    machine: Machine | None = None
    executions: dict[str, Execution] = field(default_factory=dict)

    def info(self) -> dict[str, Any]:
        """As the API tells it."""
        return {
            "box_id": self.id,
            "name": self.options.get("name"),
            "status": self.status,
            "created_at": self.created,
            "updated_at": self.created,
            "pid": None,
            "image": self.options.get("image") or "",
            "cpus": self.options.get("cpus") or 1,
            "memory_mib": self.options.get("memory_mib") or 1024,
            "labels": {},
            "options": self.options,  # the original does not tell
        }


class Server:
    """All boxes."""

    def __init__(self, place: Path, key: str | None) -> None:
        self._place, self._key = place, key
        self.url = ""
        self.boxes: dict[str, Box] = {}
        self.faults = Faults()
        self._tasks: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        """Its routes."""
        application = web.Application(middlewares=[self._checked], client_max_size=1 << 30)
        box, execution = "/v1/boxes/{box}", "/v1/boxes/{box}/executions/{execution}"
        application.add_routes(
            [
                web.post("/faults", self.set_faults),
                web.get("/v1/config", self.config),
                web.get("/v1/boxes", self.list_boxes),
                web.post("/v1/boxes", self.create),
                web.get(box, self.get),
                web.delete(box, self.remove),
                web.post(f"{box}/start", self.start),
                web.post(f"{box}/stop", self.stop),
                web.post(f"{box}/exec", self.execute),
                web.get(execution, self.status),
                web.delete(execution, self.kill),
                web.get(f"{execution}/attach", self.attach),
            ]
        )
        application.on_shutdown.append(self.close)
        return application

    async def set_faults(self, request: web.Request) -> web.Response:
        """From now on, in place of those before."""
        self.faults = Faults(**await request.json())
        return web.json_response({})

    async def config(self, _request: web.Request) -> web.Response:
        """What it can do."""
        return web.json_response({"capabilities": {}})

    async def list_boxes(self, _request: web.Request) -> web.Response:
        """All of them."""
        return web.json_response({"boxes": [box.info() for box in self.boxes.values()]})

    async def create(self, request: web.Request) -> web.Response:
        """A box that does not run yet."""
        options = await request.json()
        if self.faults.full:
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "resource_exhausted", "no room for another box")
        if any(options.get("name") == box.options.get("name") for box in self.boxes.values()):
            raise Refused(HTTPStatus.CONFLICT, "already_exists", f"box {options.get('name')} exists")
        box = Box(secrets.token_hex(6), options, datetime.datetime.now(datetime.timezone.utc).isoformat())
        self.boxes[box.id] = box
        return web.json_response(box.info(), status=HTTPStatus.CREATED)

    async def get(self, request: web.Request) -> web.Response:
        """One."""
        return web.json_response(self._box(request).info())

    async def remove(self, request: web.Request) -> web.Response:
        """End it and forget it."""
        box = self._box(request)
        del self.boxes[box.id]
        await self._end(box, "removed")
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def start(self, request: web.Request) -> web.Response:
        """Boot it, and run its main command, whose end is the box's."""
        box = self._box(request)
        await find_image(box.options)
        if self.faults.boot:
            box.status = "failed"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "engine_unavailable", self.faults.boot)
        if not box.machine:
            options = box.options
            network = options["network"].get("outbound") or options["network"]
            disk = options.get("disk_size_gb")
            box.machine = Machine(
                self._place / box.id,
                network=network["mode"] != "disabled",
                memory=options.get("memory_mib"),
                cpus=options.get("cpus"),
                disk=disk and disk * 1024,
            )
            # The test image's own, where the box names none.
            words = [*(options.get("entrypoint") or ["/bin/false"]), *(options.get("cmd") or [])]
            running = await box.machine.start(words, env=ENVIRONMENT)
            self._later(self._main(box, running))
        box.status = "running"
        return web.json_response(box.info())

    async def stop(self, request: web.Request) -> web.Response:
        """End all that runs in it."""
        box = self._box(request)
        await self._end(box, "stopped")
        return web.json_response(box.info())

    async def execute(self, request: web.Request) -> web.Response:
        """Run a command."""
        box = self._box(request)
        if not box.machine or box.status != "running":
            raise Refused(HTTPStatus.CONFLICT, "stopped", f"box {box.id} does not run")
        asked = await request.json()
        running = await box.machine.start(
            [asked["command"], *asked.get("args", [])],
            env={**ENVIRONMENT, **(asked.get("env") or {})},
            cwd=asked.get("working_dir") or "/root",
            stdin=True,
        )
        execution = Execution(running)
        name = secrets.token_hex(8)
        box.executions[name] = execution
        self._later(self._pump(execution))
        return web.json_response({"execution_id": name}, status=HTTPStatus.CREATED)

    async def status(self, request: web.Request) -> web.Response:
        """Whether a command has ended."""
        execution = self._execution(request)
        code = execution.running.code
        told: dict[str, Any] = {"execution_id": request.match_info["execution"]}
        told["status"] = "running" if code is None else "completed"
        return web.json_response(told if code is None else {**told, "exit_code": code})

    async def kill(self, request: web.Request) -> web.Response:
        """Kill a command."""
        self._execution(request).running.kill()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def attach(self, request: web.Request) -> web.WebSocketResponse:
        """Its streams, until it ends."""
        execution = self._execution(request)
        if execution.attached:
            raise Refused(HTTPStatus.CONFLICT, "invalid_state", "it has an attached client")
        channel = web.WebSocketResponse(heartbeat=15, max_msg_size=0)
        await channel.prepare(request)
        execution.attached, execution.was_attached = channel, True
        early, execution.early = execution.early, []
        for frame in early:
            await self._send(execution, frame)
        told = asyncio.ensure_future(self._tell_end(execution, channel))
        try:
            await self._receive(channel, execution.running)
        finally:
            if execution.drained.is_set():
                await told  # a connection closed with something unread in it takes back what was sent last
            told.cancel()
            execution.attached = None
        return channel

    async def close(self, _application: web.Application) -> None:
        """End everything."""
        for box in list(self.boxes.values()):
            await self._end(box, "stopped")
        for task in list(self._tasks):
            task.cancel()

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            self._authenticate(request)
            answer: web.StreamResponse = await handler(request)
        except Refused as refused:
            said = {"message": str(refused), "type": "Error", "code": refused.code}
            return web.json_response({"error": said}, status=refused.status)
        return answer

    def _authenticate(self, request: web.Request) -> None:
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            raise Refused(HTTPStatus.UNAUTHORIZED, "unauthenticated", "this key is not known")

    def _box(self, request: web.Request) -> Box:
        name = request.match_info["box"]
        for box in self.boxes.values():
            if name in (box.id, box.options.get("name")):
                return box
        raise Refused(HTTPStatus.NOT_FOUND, "not_found", f"no box {name}")

    def _execution(self, request: web.Request) -> Execution:
        execution = self._box(request).executions.get(request.match_info["execution"])
        if execution is None:
            raise Refused(HTTPStatus.NOT_FOUND, "not_found", "no such execution")
        return execution

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _main(self, box: Box, running: Running) -> None:
        await asyncio.gather(running.stdout.read(), running.stderr.read(), running.wait())
        if self.boxes.get(box.id) is box:
            await self._end(box, "stopped")

    async def _end(self, box: Box, status: str) -> None:
        box.status = status
        machine, box.machine = box.machine, None
        if machine:
            await machine.close()

    async def _pump(self, execution: Execution) -> None:
        async def pump(reader: asyncio.StreamReader, channel: bytes) -> None:
            while data := await reader.read(self.faults.frame or CHUNK):
                await self._send(execution, channel + data)
                if self.faults.delay:
                    await asyncio.sleep(self.faults.delay)

        running = execution.running
        await asyncio.gather(pump(running.stdout, STDOUT), pump(running.stderr, STDERR))
        await running.wait()
        execution.drained.set()

    async def _send(self, execution: Execution, frame: bytes) -> None:
        channel = execution.attached
        if channel is None:
            if not execution.was_attached:
                execution.early.append(frame)
            return
        with contextlib.suppress(ConnectionError):
            await channel.send_bytes(frame)
        if self.faults.drop_after:
            self.faults.drop_after -= len(frame)
            if self.faults.drop_after <= 0:
                self.faults.drop_after = 0
                execution.attached = None
                assert channel._req
                assert channel._req.transport
                channel._req.transport.abort()

    async def _tell_end(self, execution: Execution, channel: web.WebSocketResponse) -> None:
        await execution.drained.wait()
        with contextlib.suppress(ConnectionError):
            await channel.send_str(json.dumps({"type": "exit", "exit_code": execution.running.code}))
            await channel.close()

    async def _receive(self, channel: web.WebSocketResponse, running: Running) -> None:
        assert running.stdin
        async for message in channel:
            with contextlib.suppress(ConnectionError):
                if message.type == aiohttp.WSMsgType.BINARY:
                    running.stdin.write(message.data)
                    await running.stdin.drain()
                elif message.type == aiohttp.WSMsgType.TEXT and "stdin_eof" in message.data:
                    running.stdin.close()


async def find_image(options: dict[str, Any]) -> None:
    """Raise what a pull would say, in the words of BoxLite 0.10.8."""
    image = options.get("image")
    if not image:
        raise Refused(HTTPStatus.BAD_REQUEST, "invalid_argument", "a box needs an image")
    host, _, rest = image.partition("/")
    if not host.startswith("127.0.0.1:"):
        return
    name, _, tag = rest.rpartition(":")
    url = f"http://{host}/v2/{name}/manifests/{tag}"
    failed = (
        f"Failed to pull image '{image}' after trying 1 registry: - {image}: storage error: failed to pull "
    )
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            status, said = answer.status, await answer.text()
    except aiohttp.ClientError as error:
        raise Refused(
            HTTPStatus.INTERNAL_SERVER_ERROR, "storage_error", f"{failed}a registry token: {error}"
        ) from error
    if status == HTTPStatus.OK:
        return
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
        code = json.loads(said)["errors"][0]["code"]
        failed += f"manifest [{code}]: Registry error: url {url}, envelope: {said}"
    else:
        failed += f"manifest: Server error: url {url}, code: {status}, message: {said}"
    raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "storage_error", failed)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    asyncio.run(serve("boxlite-server", lambda place: Server(place, os.environ[KEY_VARIABLE]), asked.port))


if __name__ == "__main__":
    main()
