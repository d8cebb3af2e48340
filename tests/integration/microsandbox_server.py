"""A stand-in for microsandbox's cloud: its REST API, its agent's WebSocket, and commands that really run.

It prints its port, and ends with its standard input. The wire is that of ``microsandbox`` 0.7: the unmodified
SDK speaks to it. A sandbox is a ``machine``: it has no kernel of its own, and its network is cut whatever the
policy says.

Agent: a WebSocket carries a stream of frames, each LENGTH (of the rest, 4 bytes), ID (4), FLAGS (1) and the
CBOR of {v: generation, t: type, p: CBOR of the payload}. It begins with the first and the last ID that the
client may use, 4 bytes each, and a ``core.ready``. Generation 7 has all that running commands takes.

Faults are asked for by POST /faults, a JSON object:
    boot          what the next sandbox fails with, instead of starting
    refuse        status of the answer to the next create
    drop_after    bytes of output after which the connection of a command is cut, once
    die_after     bytes of output after which the whole server exits
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import struct
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import cbor2
from aiohttp import WSMsgType, web

from .images import tree, why_no_images
from .machine import Machine, Running
from .stand_in import KEY_VARIABLE
from .stand_in_server import REQUESTS, serve

IMAGE = "sandbox-test/python"  # with a Python; bare/none has none
KNOWN = (IMAGE, "python", "bare/none")
HEAD = struct.Struct(">IIB")  # length, id, flags
IDS = struct.Struct(">II")
GENERATION = 7
TERMINAL = 1
CHUNK = 64 * 1024
LONGEST = 4 << 20  # bytes of a frame
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What images and agents have in their environment, which no command should find.
AGENT = {"PATH": PATH, "OF_THE_IMAGE": "1", "OF_THE_AGENT": "1"}


@dataclass
class Box:
    """One sandbox."""

    id: str
    spec: dict[str, Any]
    machine: Machine
    created: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))
    status: str = "running"
    failure: str | None = None
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    end: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """As its maker calls it."""
        return str(self.spec["name"])

    def view(self) -> dict[str, Any]:
        """The answer that describes it; secrets stay where they are."""
        network = {key: value for key, value in self.spec["network"].items() if key != "secrets"}
        return {
            "id": self.id,
            "org_id": "tests",
            "name": self.name,
            "slug": self.name,
            "status": self.status,
            "spec": {**self.spec, "network": network},
            "ephemeral": self.spec["lifecycle"]["ephemeral"],
            "created_at": self.created.isoformat(),
            "last_failure_message": self.failure,
        }


class Cloud:
    """The server's state; ``asked`` is every create, with what it was asked for."""

    def __init__(self, directory: Path, key: str) -> None:
        self._directory, self._key = directory, key
        self.url = ""
        self._boxes: dict[str, Box] = {}
        self._faults: dict[str, Any] = {}
        self._asked: list[dict[str, Any]] = []

    def application(self) -> web.Application:
        """Its routes."""
        application = web.Application(middlewares=[self._authorize], client_max_size=1 << 24)
        application.add_routes(
            [
                web.post("/v1/sandboxes", self.create),
                web.get("/v1/sandboxes", self.list),
                web.get("/v1/sandboxes/by-name/{name}", self.look),
                web.delete("/v1/sandboxes/by-name/{name}", self.remove),
                web.get("/v1/sandboxes/{id}/agent", self.agent),
                web.post("/faults", self.fault),
                web.get("/asked", self.tell_asked),
                web.get("/machines", self.tell_machines),
            ]
        )
        application.on_shutdown.append(self._close)
        return application

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self._key}":
            return refused(HTTPStatus.UNAUTHORIZED, "unauthorized", "the API key is not valid")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def fault(self, request: web.Request) -> web.Response:
        """Misbehave from now on as asked."""
        self._faults = await request.json()
        return web.json_response({})

    async def tell_asked(self, _request: web.Request) -> web.Response:
        """What creates asked for."""
        return web.json_response(self._asked)

    async def tell_machines(self, _request: web.Request) -> web.Response:
        """Their directories, which last no longer than they."""
        return web.json_response([entry.name for entry in self._directory.iterdir()])

    async def create(self, request: web.Request) -> web.Response:
        """Make a sandbox, and start it."""
        spec = await request.json()
        self._asked.append(spec)
        status = self._faults.pop("refuse", None)
        if status:
            return refused(HTTPStatus(status), "refused", "as the test asked for")
        if any(box.name == spec["name"] for box in self._boxes.values()):
            return refused(HTTPStatus.CONFLICT, "name_already_exists", "the name is taken")
        resources = spec["resources"]
        box_id = str(uuid.uuid4())
        machine = Machine(
            self._directory / box_id,
            memory=resources["memory_mib"],
            cpus=float(resources["vcpus"]),
            disk=resources.get("disk_size_mib"),
        )
        box = self._boxes[box_id] = Box(box_id, spec, machine)
        box.failure = self._faults.pop("boot", None) or why_no_image(spec["reference"])
        if box.failure:
            box.status = "failed"
        lifetime = spec["lifecycle"]["max_duration_secs"]
        if lifetime:
            box.end = asyncio.create_task(self._expire(box, lifetime))
        return web.json_response(box.view(), status=HTTPStatus.CREATED)

    async def list(self, request: web.Request) -> web.Response:
        """Those with all the labels, a page at a time."""
        labels = json.loads(request.query.get("labels", "{}"))
        boxes = [box for box in self._boxes.values() if labels.items() <= box.spec["labels"].items()]
        begin = int(request.query.get("cursor", "0"))
        end = begin + min(int(request.query["limit"]), 7)  # few, so that more than one page is asked for
        following = str(end) if end < len(boxes) else None
        return web.json_response({"data": [box.view() for box in boxes[begin:end]], "next_cursor": following})

    async def look(self, request: web.Request) -> web.Response:
        """One of them."""
        box = self._named(request)
        return web.json_response(box.view()) if box else not_there()

    async def remove(self, request: web.Request) -> web.Response:
        """End it and forget it."""
        box = self._named(request)
        if box is None:
            return not_there()
        await self._end(box)
        return web.json_response({"message": "removed"})

    async def agent(self, request: web.Request) -> web.StreamResponse:
        """Connect to a sandbox's agent."""
        box = self._boxes.get(request.match_info["id"])
        if box is None or box.status != "running":
            return not_there()
        socket = web.WebSocketResponse(max_msg_size=0, compress=False)
        await socket.prepare(request)
        box.sockets.add(socket)
        try:
            counts = request.app[REQUESTS]
            await Connection(socket, box.machine, box.spec["reference"], self._faults, counts).serve()
        finally:
            box.sockets.discard(socket)
        return socket

    def _named(self, request: web.Request) -> Box | None:
        name = request.match_info["name"]
        return next((box for box in self._boxes.values() if box.name == name), None)

    async def _expire(self, box: Box, seconds: float) -> None:
        await asyncio.sleep(seconds)
        box.end = None
        await self._end(box)

    async def _end(self, box: Box) -> None:
        if self._boxes.pop(box.id, None) is None:
            return
        if box.end:
            box.end.cancel()
        await box.machine.close()
        for socket in list(box.sockets):
            cut(socket)

    async def _close(self, _application: web.Application) -> None:
        for box in list(self._boxes.values()):
            await self._end(box)


class Connection:
    """One client of a sandbox's agent."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        machine: Machine,
        image: str,
        faults: dict[str, Any],
        counts: Counter[str],
    ) -> None:
        self._socket = socket
        self._machine = machine
        self._image = image
        self._faults = faults
        self._counts = counts
        self._inputs: dict[int, asyncio.Queue[bytes]] = {}
        self._running: dict[int, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._written = 0

    async def serve(self) -> None:
        """Until the client goes; what it started stays, as a machine's does."""
        ready = {"boot_time_ns": 1, "init_time_ns": 1, "ready_time_ns": 1}
        await self._socket.send_bytes(IDS.pack(1, 1 << 20))
        await self._send(0, "core.ready", ready)
        with contextlib.suppress(ConnectionError):
            async for number, kind, payload in self._frames():
                if kind == "core.exec.request":
                    self._counts[kind] += 1
                    self._inputs[number] = asyncio.Queue()
                    self._do(self._execute(number, payload))
                elif kind == "core.exec.stdin" and number in self._inputs:
                    self._inputs[number].put_nowait(payload["data"])
                elif kind == "core.exec.signal" and number in self._running:
                    self._running[number].kill(payload["signal"])

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _frames(self) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        received = bytearray()
        async for message in self._socket:
            if message.type != WSMsgType.BINARY:
                return
            received += message.data
            while len(received) >= HEAD.size:
                length, number, _ = HEAD.unpack_from(received)
                if length > LONGEST:
                    raise ConnectionError("a frame is too long")
                if len(received) < 4 + length:
                    break
                body = cbor2.loads(bytes(received[HEAD.size : 4 + length]))
                del received[: 4 + length]
                yield number, body["t"], cbor2.loads(body["p"])

    async def _send(self, number: int, kind: str, payload: dict[str, Any], flags: int = 0) -> None:
        body = cbor2.dumps({"v": GENERATION, "t": kind, "p": cbor2.dumps(payload)})
        await self._socket.send_bytes(HEAD.pack(len(body) + 5, number, flags) + body)

    async def _execute(self, number: int, asked: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            if not has_program(self._image, asked["cmd"]):
                failure = {"kind": "not_found", "errno": 2, "errno_name": "ENOENT", "stage": "spawn"}
                failure["message"] = f"spawn {asked['cmd']!r}: No such file or directory"
                await self._send(number, "core.exec.failed", failure, TERMINAL)
                return
            env = {**AGENT, **dict(pair.split("=", 1) for pair in asked["env"])}
            words = [asked["cmd"], *asked["args"]]
            running = await self._machine.start(words, env=env, cwd=asked["cwd"] or "/", stdin=True)
            while running.code is None and not list(running._command()):  # it has no process of its own yet
                await asyncio.sleep(0.001)
            self._running[number] = running
            await self._send(number, "core.exec.started", {"pid": running.pid})
            feeding = asyncio.create_task(self._feed(number, running))
            try:
                await asyncio.gather(
                    self._forward(number, "core.exec.stdout", running.stdout),
                    self._forward(number, "core.exec.stderr", running.stderr),
                )
                code = await running.wait()
            finally:
                feeding.cancel()
                self._inputs.pop(number, None)
                self._running.pop(number, None)
            await self._send(number, "core.exec.exited", {"code": code}, TERMINAL)

    async def _feed(self, number: int, running: Running) -> None:
        assert running.stdin
        queue = self._inputs[number]
        with contextlib.suppress(ConnectionError):
            while data := await queue.get():
                running.stdin.write(data)
                await running.stdin.drain()
            running.stdin.close()

    async def _forward(self, number: int, kind: str, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(CHUNK):
            # What nobody hears is read all the same: the command goes on.
            with contextlib.suppress(ConnectionError):
                await self._send(number, kind, {"data": data})
            self._written += len(data)
            if self._written >= self._faults.get("die_after", sys.maxsize):
                os._exit(1)
            if self._written >= self._faults.get("drop_after", sys.maxsize):
                del self._faults["drop_after"]
                cut(self._socket)


def cut(socket: web.WebSocketResponse) -> None:
    """Close the connection without a word."""
    request = socket._req
    if request is not None and request.transport is not None:
        request.transport.abort()


def why_no_image(reference: str) -> str | None:
    """What the runtime says of an image that it can't pull, None for those that there are."""
    name = reference.split(":")[0].split("@")[0]
    if name in KNOWN:
        return None
    if name.startswith("private/"):
        return f"image error: registry error: Not authorized: {reference}"
    if name.startswith("broken/"):
        return f"image error: registry error: Server error: {reference}, code: 503"
    return f"image error: registry error: {reference}: OCI API errors: [OCI API error: manifest unknown]"


def has_program(image: str, name: str) -> bool:
    """Whether a machine with that image has the program; it may be anything that is there."""
    if image.startswith("bare/"):
        return False
    if "/" in name or why_no_images():
        return True
    return any((tree() / place.lstrip("/") / name).exists() for place in PATH.split(":"))


def refused(status: HTTPStatus, code: str, message: str) -> web.Response:
    """An error as the API words it."""
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


def not_there() -> web.Response:
    """The answer for what is not there."""
    return refused(HTTPStatus.NOT_FOUND, "sandbox_not_found", "there is no such sandbox")


def main() -> None:
    """Serve."""
    key = os.environ[KEY_VARIABLE]
    asyncio.run(serve("microsandbox-server", lambda place: Cloud(place, key)))


if __name__ == "__main__":
    main()
