"""A stand-in for E2B: its control plane and the daemon of its sandboxes on one port of the loopback.

It does what E2B was read to do, with machines of ``machine.py``, for the unmodified SDK, whose own
generated models make its answers. No image is pulled: whatever is a reference is taken to exist. The
network of a machine is cut, unless a fault opens it. It prints its port, and ends with its standard input.
``POST /stand-in/faults`` makes it fail as asked, see ``Faults``; ``GET /stand-in/asked`` tells what it was
asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import os
import re
import secrets
import shutil
import sys
import tarfile
import tempfile
import urllib.parse
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b.api.client.models import (
    BuildLogEntry,
    BuildStatusReason,
    ListedSandbox,
    LogLevel,
    NewSandboxV2,
    Sandbox,
    SandboxDetail,
    SandboxState,
    SandboxTimeoutRequest,
    TemplateAliasResponse,
    TemplateBuildFileUpload,
    TemplateBuildInfo,
    TemplateBuildRequestV3,
    TemplateBuildStartV2,
    TemplateBuildStatus,
    TemplateRequestResponseV3,
    TemplateStep,
)
from e2b.api.client.types import Unset
from e2b.envd.process import process_connect, process_pb
from protobuf import Oneof
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from .images import PATH
from .machine import Machine, Running, bury_orphans
from .stand_in import KEY_VARIABLE

CHUNK = 32 * 1024  # bytes, as envd reads
QUEUED = 64  # chunks for one who listens
ENVD = "0.6.9"
ENVIRONMENT = {"PATH": PATH, "E2B_SANDBOX": "true"}
WRITE = """
import os, shutil, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
with open(sys.argv[1], "wb") as file:
    shutil.copyfileobj(sys.stdin.buffer, file)
"""
READ = """
import shutil, sys
with open(sys.argv[1], "rb") as file:
    shutil.copyfileobj(file, sys.stdout.buffer)
"""
READ_AT_ONCE = 256 * 1024  # bytes
REFERENCE = re.compile(r"[a-z0-9][a-z0-9._:/-]*(:[\w][\w.-]*)?(@sha256:[0-9a-f]{64})?\Z")
LONGEST = 24 * 3600  # seconds


@dataclass
class Faults:
    """What goes wrong: each is off unless set.

    ``refuse`` is the status of so many ``times`` answers to a creation, with ``retry_after`` seconds;
    ``lose`` makes so many creations whose answer is lost, each answered after ``slow_creation`` seconds;
    ``limit`` is the most sandboxes at once; ``lag`` seconds go by before a list shows what was made,
    ``slow_end`` before a sandbox's end is answered; after ``drop_after`` bytes a stream is cut, ``drops``
    times, in the ``way`` "abort" (the connection) or "unavailable" (by the daemon); ``lose_input``
    answers to input are lost, and ``lose_files`` files, half-way; ``build`` is why no template can be
    built. ``second`` is how long E2B's seconds are, in seconds, where it counts a sandbox's time to live;
    with ``expired`` its key is one no more. Machines that may reach the internet share this machine's
    ``network``.
    """

    refuse: int = 0
    times: int = 1
    retry_after: int | None = None
    lose: int = 0
    slow_creation: float = 0.0
    limit: int = 0
    lag: float = 0.0
    slow_end: float = 0.0
    drop_after: int = 0
    drops: int = 1
    way: str = "abort"
    lose_input: int = 0
    lose_files: int = 0
    build: str = ""
    second: float = 1.0
    expired: bool = False
    network: bool = False


class Refused(Exception):
    """What is answered instead."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class Dropped(Exception):
    """The connection is to be cut."""


@dataclass
class Template:
    """A template, and its build."""

    id: str
    name: str
    cores: int
    memory: int
    build: str = field(default_factory=lambda: secrets.token_hex(8))
    status: TemplateBuildStatus = TemplateBuildStatus.WAITING
    log: list[str] = field(default_factory=list)

    def place(self, place: Path) -> Path:
        """The directory of the machine that its sandboxes begin as."""
        return place / f"template-{self.build}"


@dataclass
class Started:
    """A process, and who listens to it; what nobody listens to is lost."""

    running: Running
    ears: set[asyncio.Queue[process_pb.ProcessEvent]] = field(default_factory=set)

    async def tell(self, event: process_pb.ProcessEvent) -> None:
        """All who listen wait for the slowest."""
        for ear in list(self.ears):
            await ear.put(event)


@dataclass
class Box:
    """A sandbox."""

    id: str
    template: Template
    metadata: dict[str, str]
    machine: Machine
    started: datetime.datetime
    end: datetime.datetime
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    processes: dict[int, Started] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    def described(self, model: type[ListedSandbox] | type[SandboxDetail]) -> dict[str, Any]:
        """As the API tells it."""
        return model(
            template_id=self.template.id,
            sandbox_id=self.id,
            client_id="stand-in",
            started_at=self.started,
            end_at=self.end,
            cpu_count=self.template.cores,
            memory_mb=self.template.memory,
            disk_size_mb=10240,
            state=SandboxState.RUNNING,
            envd_version=ENVD,
            alias=self.template.name,
            metadata=self.metadata,
        ).to_dict()


class Server:
    """The account of one key."""

    def __init__(self, place: Path, key: str) -> None:
        self.place, self.key = place, key
        self.boxes: dict[str, Box] = {}
        self.templates: dict[str, Template] = {}
        self.once: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.most = 0  # at once, since faults were set
        self.faults = Faults()
        self.tasks: set[asyncio.Task[Any]] = set()

    def application(self) -> Starlette:
        """Its routes."""
        box = "/sandboxes/{box}"
        build = "/templates/{template}/builds/{build}"
        routes = [
            Route("/stand-in/faults", self.set_faults, methods=["POST"]),
            Route("/stand-in/asked", self.tell_asked),
            Route("/stand-in/most", self.tell_most),
            Route("/stand-in/vanish", self.vanish, methods=["POST"]),
            Route("/v2/sandboxes", self.checked(self.create), methods=["POST"]),
            Route("/v2/sandboxes", self.checked(self.list)),
            Route(box, self.checked(self.describe)),
            Route(box, self.checked(self.remove), methods=["DELETE"]),
            Route(f"{box}/timeout", self.checked(self.set_timeout), methods=["POST"]),
            Route("/templates/aliases/{name}", self.checked(self.find_template)),
            Route("/v3/templates", self.checked(self.make_template), methods=["POST"]),
            Route("/templates/{template}/files/{hash}", self.checked(self.find_files)),
            Route("/stand-in/files/{hash}", self.keep_files, methods=["PUT"]),
            Route(f"/v2{build}", self.checked(self.build), methods=["POST"]),
            Route(f"{build}/status", self.checked(self.build_status)),
            Route("/files", self.write_file, methods=["POST"]),
            Route("/files", self.read_file),
            Route("/health", self.health),
            Mount("/process.Process", Daemon(self)),
        ]
        return Starlette(routes=routes)

    def checked(self, answer: Any) -> Any:
        """With the key, and refusals as E2B words them."""

        async def checked(request: Request) -> Response:
            try:
                self.authenticate(request)
                found: Response = await answer(request)
            except Refused as refused:
                said = {"code": refused.status, "message": str(refused)}
                return JSONResponse(said, refused.status, headers=refused.headers)
            return found

        return checked

    def authenticate(self, request: Request) -> None:
        """Refuse other keys."""
        if request.headers.get("X-API-KEY") != self.key or self.faults.expired:
            raise Refused(401, "Invalid API key")

    # --- of the tests ---------------------------------------------------------------------------

    async def set_faults(self, request: Request) -> Response:
        """From now on."""
        self.faults, self.most = Faults(**await request.json()), len(self.boxes)
        for box in self.boxes.values():
            self.live_on(box, (box.end - datetime.datetime.now(datetime.timezone.utc)).total_seconds())
        return JSONResponse({})

    async def tell_most(self, _request: Request) -> Response:
        """How many sandboxes there were at once."""
        return JSONResponse(self.most)

    async def tell_asked(self, _request: Request) -> Response:
        """Requests for a sandbox or a template, without the key, and what was made and ended for them."""
        return JSONResponse(self.asked)

    async def vanish(self, request: Request) -> Response:
        """All sandboxes go without a word, and all templates where that is asked for."""
        if "templates" in request.query_params:
            self.templates.clear()
        for box in list(self.boxes.values()):
            await self.end(box)
        return JSONResponse({})

    # --- sandboxes ------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Make one, once for each idempotency key."""
        content = await request.json()
        asked = NewSandboxV2.from_dict(content)
        once = request.headers.get("Idempotency-Key") or secrets.token_hex(8)
        self.asked.append({"sandbox": content, "once": request.headers.get("Idempotency-Key")})
        faults = self.faults
        if faults.refuse and faults.times > 0:
            faults.times -= 1
            headers = {} if faults.retry_after is None else {"Retry-After": str(faults.retry_after)}
            raise Refused(faults.refuse, "refused for the test", headers)
        if faults.limit and len(self.boxes) >= faults.limit:
            raise Refused(
                429, f"you have reached the maximum number of concurrent sandboxes ({faults.limit})"
            )
        if not isinstance(asked.timeout, int) or not 0 < asked.timeout <= LONGEST:
            raise Refused(400, f"Timeout cannot be greater than {LONGEST // 3600} hours")
        box = self.boxes.get(self.once.get(once, "")) or self.make(asked)
        self.once[once] = box.id
        await asyncio.sleep(faults.slow_creation)
        if faults.lose > 0:
            faults.lose -= 1
            raise Refused(502, "the answer was lost")
        answer = Sandbox(
            template_id=box.template.id,
            sandbox_id=box.id,
            client_id="stand-in",
            envd_version=ENVD,
            envd_access_token=box.token,
            domain=None,
        )
        return JSONResponse(answer.to_dict(), 201)

    def make(self, asked: NewSandboxV2) -> Box:
        """A machine for it."""
        template = self.template(asked.template_id)
        if template.status is not TemplateBuildStatus.READY:
            raise Refused(404, f"template '{asked.template_id}' has no ready build")
        assert isinstance(asked.timeout, int)
        name = f"i{secrets.token_hex(10)}"
        now = datetime.datetime.now(datetime.timezone.utc)
        limits = {"memory": template.memory, "cpus": float(template.cores)}
        network = self.faults.network and asked.allow_internet_access is not False
        shutil.copytree(template.place(self.place), self.place / name, symlinks=True)
        machine = Machine(self.place / name, network=network, **limits)  # type: ignore[arg-type]  # one of each
        box = Box(name, template, asked.metadata, machine, now, now)
        self.boxes[name] = box
        self.most = max(self.most, len(self.boxes))
        self.live_on(box, asked.timeout)
        self.asked.append({"made": name})
        return box

    def live_on(self, box: Box, seconds: float) -> None:
        """Until then."""
        if box.timer:
            box.timer.cancel()
        box.end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
        box.timer = asyncio.get_running_loop().call_later(
            seconds * self.faults.second, lambda: self.later(self.end(box))
        )

    async def list(self, request: Request) -> Response:
        """A page of them."""
        wanted = {
            urllib.parse.unquote(name): urllib.parse.unquote(value)
            for name, value in urllib.parse.parse_qsl(request.query_params.get("metadata", ""))
        }
        latest = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=self.faults.lag)
        found = [
            box
            for box in self.boxes.values()
            if box.started <= latest and wanted.items() <= box.metadata.items()
        ]
        start, limit = (
            int(request.query_params.get(name, default)) for name, default in (("nextToken", 0), ("limit", 5))
        )
        more = {"X-Next-Token": str(start + limit)} if len(found) > start + limit else {}
        page = [box.described(ListedSandbox) for box in found[start : start + limit]]
        return JSONResponse(page, headers=more)

    async def describe(self, request: Request) -> Response:
        """One."""
        return JSONResponse(self.box(request.path_params["box"]).described(SandboxDetail))

    async def remove(self, request: Request) -> Response:
        """End it, and then answer."""
        box = self.box(request.path_params["box"])
        await asyncio.sleep(self.faults.slow_end)
        await self.end(box)
        self.asked.append({"ended": box.id})
        return Response(status_code=204)

    async def set_timeout(self, request: Request) -> Response:
        """From now on."""
        content = await request.json()
        self.asked.append({"timeout": content})
        self.live_on(self.box(request.path_params["box"]), SandboxTimeoutRequest.from_dict(content).timeout)
        return Response(status_code=204)

    def box(self, name: str) -> Box:
        """The one of that id."""
        if name not in self.boxes:
            raise Refused(404, f"sandbox '{name}' not found")
        return self.boxes[name]

    async def end(self, box: Box) -> None:
        """End all that runs in it, and forget it."""
        if self.boxes.pop(box.id, None):
            if box.timer:
                box.timer.cancel()
            await box.machine.close()

    # --- templates ------------------------------------------------------------------------------

    def template(self, name: str) -> Template:
        """By name or id."""
        for template in self.templates.values():
            if name in (template.name, template.id):
                return template
        raise Refused(404, f"template '{name}' not found")

    async def find_template(self, request: Request) -> Response:
        """Whether there is one of that name."""
        found = self.template(request.path_params["name"])
        return JSONResponse(TemplateAliasResponse(template_id=found.id, public=False).to_dict())

    async def make_template(self, request: Request) -> Response:
        """Ask for one."""
        content = await request.json()
        asked = TemplateBuildRequestV3.from_dict(content)
        self.asked.append({"template": content})
        assert isinstance(asked.name, str)
        assert isinstance(asked.cpu_count, int)
        assert isinstance(asked.memory_mb, int)
        known = {template.name: template.id for template in self.templates.values()}
        made = Template(
            known.get(asked.name, secrets.token_hex(10)), asked.name, asked.cpu_count, asked.memory_mb
        )
        self.templates[made.id] = made
        answer = TemplateRequestResponseV3(made.id, made.build, False, [made.name], [], [made.name])
        return JSONResponse(answer.to_dict(), 202)

    async def build(self, request: Request) -> Response:
        """Build it."""
        template = self.template(request.path_params["template"])
        asked = TemplateBuildStartV2.from_dict(await request.json())
        image = str(asked.from_image)
        template.log += [f"FROM {image}", "the image is there"]
        reason = self.faults.build or ("" if REFERENCE.match(image) else f"invalid reference format: {image}")
        machine = Machine(template.place(self.place))
        for step in [] if reason or isinstance(asked.steps, Unset) else asked.steps:
            reason = reason or await self.carry_out(step, machine, template.log)
        template.status = TemplateBuildStatus.ERROR if reason else TemplateBuildStatus.READY
        template.log += [reason] if reason else []
        return Response(status_code=202)

    async def carry_out(self, step: TemplateStep, machine: Machine, log: list[str]) -> str:
        """One step of a build, as root; why it failed, or nothing."""
        assert not isinstance(step.args, Unset)
        log.append(f"{step.type_} {step.args[0]}"[:200])
        if step.type_ == "COPY":
            target = machine.root / step.args[1].lstrip("/")
            assert step.args[1].endswith("/"), "what is copied goes into a directory"
            target.mkdir(parents=True, exist_ok=True)
            with tarfile.open(self.place / "files" / str(step.files_hash)) as archive:
                archive.extractall(target, filter="tar")
            return ""
        assert step.type_ == "RUN"
        running = await machine.start(["/bin/sh", "-c", step.args[0]], env=ENVIRONMENT, cwd="/")
        out, err = await asyncio.gather(running.stdout.read(), running.stderr.read())
        log += (out + err).decode(errors="replace").splitlines()
        code = await running.wait()
        return f"failed to run command: exit status {code}" if code else ""

    async def find_files(self, request: Request) -> Response:
        """Where files for a build go, and whether they are there."""
        name = request.path_params["hash"]
        present = (self.place / "files" / name).exists()
        link = TemplateBuildFileUpload(present, url=f"{request.base_url}stand-in/files/{name}")
        return JSONResponse(link.to_dict(), 201)

    async def keep_files(self, request: Request) -> Response:
        """Take them."""
        (self.place / "files").mkdir(exist_ok=True)
        with (self.place / "files" / Path(request.path_params["hash"]).name).open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        self.asked.append({"files": request.path_params["hash"]})
        return Response(status_code=200)

    async def build_status(self, request: Request) -> Response:
        """How that goes."""
        template = self.template(request.path_params["template"])
        offset = int(request.query_params.get("logsOffset", 0))
        now = datetime.datetime.now(datetime.timezone.utc)
        entries = [BuildLogEntry(timestamp=now, message=line, level=LogLevel.INFO) for line in template.log]
        answer = TemplateBuildInfo([], entries[offset:], template.id, template.build, template.status)
        if template.status is TemplateBuildStatus.ERROR:
            answer.reason = BuildStatusReason(message=template.log[-1])
        return JSONResponse(answer.to_dict())

    # --- inside ---------------------------------------------------------------------------------

    def inside(self, headers: Any) -> Box:
        """The sandbox that a call goes to."""
        box = self.boxes.get(headers.get("E2b-Sandbox-Id", ""))
        if box is None:
            raise Refused(502, "The sandbox was not found")
        if headers.get("X-Access-Token") != box.token:
            raise Refused(401, "Unauthorized")
        return box

    async def write_file(self, request: Request) -> Response:
        """As the SDK sends a stream."""
        path = request.query_params["path"]
        box = self.boxes.get(request.headers.get("E2b-Sandbox-Id", ""))
        if box is None or request.headers.get("X-Access-Token") != box.token:
            return JSONResponse({"code": 502, "message": "The sandbox was not found"}, 502)
        assert request.headers["Content-Type"] == "application/octet-stream"
        running = await box.machine.start(["python3", "-c", WRITE, path], env=ENVIRONMENT, stdin=True)
        assert running.stdin
        try:
            async for data in request.stream():
                self.lose_file()
                with contextlib.suppress(ConnectionError):
                    running.stdin.write(data)
                    await running.stdin.drain()
        finally:
            running.stdin.close()
        _, said = await asyncio.gather(running.stdout.read(), running.stderr.read())
        if await running.wait():
            return JSONResponse({"code": 400, "message": said.decode(errors="replace")}, 400)
        return JSONResponse([{"name": Path(path).name, "path": path, "type": "file"}])

    async def read_file(self, request: Request) -> Response:
        """As a stream, compressed for whoever takes that."""
        box = self.boxes.get(request.headers.get("E2b-Sandbox-Id", ""))
        if box is None or request.headers.get("X-Access-Token") != box.token:
            return JSONResponse({"code": 502, "message": "The sandbox was not found"}, 502)
        path = request.query_params["path"]
        running = await box.machine.start(["python3", "-c", READ, path], env=ENVIRONMENT)
        first = await running.stdout.read(READ_AT_ONCE)
        if not first and await running.wait():
            said = (await running.stderr.read()).decode(errors="replace")
            return JSONResponse({"code": 404, "message": said}, 404)
        compress = (
            zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
            if "gzip" in request.headers.get("Accept-Encoding", "")
            else None
        )

        async def content() -> AsyncIterator[bytes]:
            data = first
            try:
                while data:
                    self.lose_file()
                    yield compress.compress(data) if compress else data
                    data = await running.stdout.read(READ_AT_ONCE)
                if compress:
                    yield compress.flush()
            finally:
                running.kill()
                await asyncio.gather(running.stdout.read(), running.stderr.read())
                await running.wait()

        headers = {"Content-Encoding": "gzip"} if compress else {}
        return StreamingResponse(content(), headers=headers, media_type="application/octet-stream")

    def lose_file(self) -> None:
        """Cut the connection of one."""
        if self.faults.lose_files > 0:
            self.faults.lose_files -= 1
            raise Dropped

    async def health(self, request: Request) -> Response:
        """Of a sandbox."""
        if request.headers.get("E2b-Sandbox-Id") in self.boxes:
            return Response(status_code=204)
        return JSONResponse({"code": 502, "message": "The sandbox was not found"}, 502)

    def later(self, work: Any) -> None:
        """Let it run by itself."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        """End everything."""
        for box in list(self.boxes.values()):
            await self.end(box)


class Processes(process_connect.Process):
    """The daemon's processes, by the SDK's own description of them."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def start(self, request: Any, ctx: Any, /) -> AsyncIterator[process_pb.StartResponse]:
        """Start one, and tell what happens."""
        box = self._server.inside(ctx.request_headers)
        asked = request.process
        running = await box.machine.start(
            [asked.cmd, *asked.args],
            env={**ENVIRONMENT, **dict(asked.envs)},
            cwd=asked.cwd or "/root",
            stdin=bool(request.stdin),
        )
        started = Started(running)
        box.processes[running.pid] = started
        ear = self._listen(started)
        self._server.later(self._pump(box, started))
        async for event in self._events(started, ear):
            yield process_pb.StartResponse(event=event)

    async def connect(self, request: Any, ctx: Any, /) -> AsyncIterator[process_pb.ConnectResponse]:
        """Tell what happens from now on."""
        started = self._started(request, ctx)
        async for event in self._events(started, self._listen(started)):
            yield process_pb.ConnectResponse(event=event)

    async def send_input(self, request: Any, ctx: Any, /) -> process_pb.SendInputResponse:
        """Write to its standard input."""
        running = self._started(request, ctx).running
        assert running.stdin
        with contextlib.suppress(ConnectionError):
            running.stdin.write(request.input.input.value)
            await running.stdin.drain()
        if self._server.faults.lose_input > 0:
            self._server.faults.lose_input -= 1
            raise ConnectError(Code.UNAVAILABLE, "the answer was lost")
        return process_pb.SendInputResponse()

    async def send_signal(self, request: Any, ctx: Any, /) -> process_pb.SendSignalResponse:
        """Kill it."""
        self._started(request, ctx).running.kill()
        return process_pb.SendSignalResponse()

    def _started(self, request: Any, ctx: Any) -> Started:
        box = self._server.inside(ctx.request_headers)
        pid = request.process.selector.value
        if pid not in box.processes:
            raise ConnectError(Code.NOT_FOUND, f"process with pid {pid} not found")
        return box.processes[pid]

    @staticmethod
    def _listen(started: Started) -> asyncio.Queue[process_pb.ProcessEvent]:
        ear: asyncio.Queue[process_pb.ProcessEvent] = asyncio.Queue(QUEUED)
        started.ears.add(ear)
        return ear

    @staticmethod
    async def _events(
        started: Started, ear: asyncio.Queue[process_pb.ProcessEvent]
    ) -> AsyncIterator[process_pb.ProcessEvent]:
        yield process_pb.ProcessEvent(
            event=Oneof("start", process_pb.ProcessEvent.StartEvent(pid=started.running.pid))
        )
        try:
            while True:
                event = await ear.get()
                yield event
                if event.event and event.event.field == "end":
                    return
        finally:
            started.ears.discard(ear)
            while not ear.empty():  # whoever waits to tell it
                ear.get_nowait()

    @staticmethod
    async def _pump(box: Box, started: Started) -> None:
        async def pump(reader: asyncio.StreamReader, name: str) -> None:
            while data := await reader.read(CHUNK):
                output = process_pb.ProcessEvent.DataEvent(output=Oneof(name, data))
                await started.tell(process_pb.ProcessEvent(event=Oneof("data", output)))

        running = started.running
        await asyncio.gather(pump(running.stdout, "stdout"), pump(running.stderr, "stderr"))
        code = await running.wait()
        del box.processes[running.pid]
        end = process_pb.ProcessEvent.EndEvent(
            exit_code=code, exited=code < 128, status=f"exit status {code}"
        )
        await started.tell(process_pb.ProcessEvent(event=Oneof("end", end)))


class Daemon:
    """The daemon, with connections that break."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._application = process_connect.ProcessASGIApplication(Processes(server))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        stream = scope["path"].endswith(("/Start", "/Connect"))
        headers = {name.decode().title(): value.decode() for name, value in scope["headers"]}
        try:
            self._server.inside({name.replace("E2B", "E2b"): value for name, value in headers.items()})
        except Refused as refused:
            answer = JSONResponse({"code": refused.status, "message": str(refused)}, refused.status)
            await answer(scope, receive, send)
            return
        sent = 0

        async def breaking(message: Any) -> None:
            nonlocal sent
            faults = self._server.faults
            if stream and faults.drop_after and sent >= faults.drop_after:
                if faults.drops > 0:
                    faults.drops -= 1
                    if faults.way == "unavailable":
                        raise ConnectError(Code.UNAVAILABLE, "the connection to the sandbox ended")
                    sent = -1
                else:
                    sent = 0
            if sent < 0:
                raise Dropped
            sent += len(message.get("body", b""))
            await send(message)

        scope = {**scope, "root_path": ""}
        await self._application(scope, receive, breaking)
        if sent < 0:
            raise Dropped


async def serve(key: str, port: int) -> None:
    """Until standard input ends."""
    place = Path(tempfile.mkdtemp(prefix="e2b-server"))
    server = Server(place, key)
    config = uvicorn.Config(
        server.application(),
        host="127.0.0.1",
        port=port,
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    web = uvicorn.Server(config)
    serving = asyncio.ensure_future(web._serve())
    burying = asyncio.ensure_future(bury_orphans())
    while not web.started:
        await asyncio.sleep(0.01)
    sys.stdout.write(f"{web.servers[0].sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await server.close()
    web.should_exit = True
    await serving
    burying.cancel()
    shutil.rmtree(place, ignore_errors=True)  # machines that go remove theirs, too


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    asyncio.run(serve(os.environ[KEY_VARIABLE], asked.port))


if __name__ == "__main__":
    main()
