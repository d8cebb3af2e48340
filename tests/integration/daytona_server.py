"""A stand-in for Daytona: its control plane, its proxy and the daemon in each sandbox, on the loopback.

It speaks to the unmodified SDK, whose own models check what it is sent and what it answers. A sandbox is a
machine of ``machine.py`` in which ``daytona_agent.py`` runs commands for real; no image is pulled or built, a
valid name is taken to exist. It prints its port, and ends with its standard input. ``POST /faults`` makes it
fail as asked, see ``Faults``; ``POST /vanish/{name}`` ends a sandbox, ``POST /starve/{name}`` its daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import io
import itertools
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import daytona_api_client as control
import daytona_toolbox_api_client as toolbox
import socketio
from aiohttp import web

from .images import PATH
from .machine import OWN, Machine, Running
from .stand_in import KEY_VARIABLE
from .stand_in_server import serve

AGENT = Path(__file__).with_name("daytona_agent.py").read_text()
# The test image's variables, and what Daytona adds.
ENVIRONMENT = {"PATH": PATH, "OF_THE_IMAGE": "1", "HOME": "/root", "DAYTONA_SANDBOX_ID": "inside"}
REFERENCE = re.compile(r"FROM ([a-z0-9]+([._:/@-][a-zA-Z0-9]+)*)\n")
UNKNOWN = ("no-such", "metaflow-sandbox-")
RESTORED = "/tmp/.restored.tar"
GIB = 1024  # MiB
PIECE = 1 << 20  # bytes
NOTHING: Mapping[str, BinaryIO] = MappingProxyType({})
MINUTE = 60.0


@dataclass
class Faults:
    """What goes wrong, each off unless set.

    The next ``busy`` creations answer 429, with ``retry_after``, and so do the next ``busy_calls`` calls into
    sandboxes; the next ``calls`` of these answer 502, those of ``lost_calls`` after the work was done, and
    every ``unsteady``-th fails for ever, before and after its work in turns. A creation beyond ``limit``
    sandboxes answers 403, as all do in the words of ``quota``; 502 after its work (``lost_create`` times), or
    ``late_create`` seconds before it; or nothing for ``mute`` seconds. No sandbox comes up with a reason in
    ``boot``, and all only after ``build`` seconds. Lists lag by ``lag`` seconds, removals take ``removal``
    seconds, and every removal but the first meanwhile is a conflict. Without ``walls`` the network is open.
    ``minute`` is how long Daytona's minutes are, ``delay`` how long the way to a sandbox is, in seconds.
    With ``expired`` its key is one no more. No snapshot is kept with a reason in ``snapshot``; one that is
    shows up ``late_snapshot`` seconds after its sandbox is done with it. With ``no_snapshots`` the
    key may not look at any.
    """

    busy: int = 0
    retry_after: str = ""
    busy_calls: int = 0
    unsteady: int = 0
    limit: int = 0
    calls: int = 0
    lost_calls: int = 0
    quota: str = ""
    lost_create: int = 0
    late_create: float = 0.0
    mute: float = 0.0
    boot: str = ""
    build: float = 0.0
    lag: float = 0.0
    removal: float = 0.0
    walls: bool = True
    minute: float = MINUTE
    delay: float = 0.0
    expired: bool = False
    snapshot: str = ""
    late_snapshot: float = 0.0
    no_snapshots: bool = False

    def waits(self) -> dict[str, str]:
        """The header of an answer 429."""
        return {"Retry-After": self.retry_after} if self.retry_after else {}


class Refused(Exception):
    """What is answered instead."""

    def __init__(self, status: int, message: str, code: str = "ERROR", **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class Daemon:
    """The agent of one machine."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._asking = asyncio.Lock()
        self._reading = asyncio.ensure_future(self._read())
        self._errors = asyncio.ensure_future(running.stderr.read())

    async def ask(self, what: str, files: Mapping[str, BinaryIO], **asked: Any) -> Any:
        """What it answers, with the "content" that came along; Refused when it is dead."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        assert self.running.stdin
        if self._reading.done():
            raise Refused(502, "bad gateway")
        sizes = {name: file.seek(0, os.SEEK_END) for name, file in files.items()}
        line = json.dumps({"do": what, "number": number, "files": sizes, **asked}).encode() + b"\n"
        async with self._asking:
            with contextlib.suppress(ConnectionError):  # what it reads no more, it does not answer
                self.running.stdin.write(line)
                for file in files.values():
                    file.seek(0)
                    while piece := file.read(PIECE):
                        self.running.stdin.write(piece)
                        await self.running.stdin.drain()
        told = await answer
        if told is None:
            raise Refused(502, "bad gateway")
        return told

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while line := await self.running.stdout.readline():
                told = json.loads(line)
                told["content"] = content = tempfile.SpooledTemporaryFile(PIECE)  # noqa: SIM115 -- its reader's
                while (left := told["size"] - content.tell()) > 0:
                    content.write(await self.running.stdout.readexactly(min(PIECE, left)))
                content.seek(0)
                answer = self._asked.pop(told["number"])
                if not answer.cancelled():
                    answer.set_result(told)
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)


@dataclass
class Sandbox:
    """One, with the answer that tells about it."""

    about: dict[str, Any]
    auto_stop: float
    ends: float
    machine: Machine | None = None
    daemon: Daemon | None = None
    called: float = field(default_factory=time.monotonic)
    put_off: int = 0
    listed: float = 0.0  # when lists have its newest state
    disk: int | None = None  # GiB, where they were asked for

    @property
    def state(self) -> str:
        """In Daytona's words."""
        return str(self.about["state"])


@dataclass
class Snapshot:
    """One, with the answer that tells about it, a tar of what its sandbox had, and the disk asked for it."""

    about: dict[str, Any]
    content: BinaryIO
    disk: int | None


class Server:
    """All sandboxes of one key."""

    def __init__(self, place: Path, key: str) -> None:
        self._place, self._key = place, key
        self.url = ""
        self.faults = Faults()
        self.sandboxes: dict[str, Sandbox] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self._keeping: set[str] = set()  # names of those that do not show up yet
        self.created: list[dict[str, Any]] = []  # what was asked for
        self.most = 0  # at once, since faults were set
        self._gone: dict[str, Sandbox] = {}  # what lists still have
        self._calls = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._events = socketio.AsyncServer(async_mode="aiohttp", logger=False)

    def application(self) -> web.Application:
        """Its routes."""
        application = web.Application(middlewares=[self._checked], client_max_size=1 << 30)
        one, inside, snapshot = "/api/sandbox/{name}", "/toolbox/{name}", "/api/snapshots/{name}"
        application.add_routes(
            [
                web.post("/faults", self.set_faults),
                web.get("/created", self.tell_created),
                web.get("/most", self.tell_most),
                web.get("/ttl/{name}", self.tell_ttl),
                web.post("/vanish/{name}", self.vanish),
                web.post("/snapshots", self.set_snapshots),
                web.post("/starve/{name}", self.starve),
                web.post("/api/sandbox", self.create),
                web.get("/api/sandbox", self.list),
                web.get(one, self.get),
                web.delete(one, self.remove),
                web.post(f"{one}/ttl/{{minutes}}", self.set_ttl),
                web.get(f"{one}/build-logs-url", self.logs_url),
                web.post(f"{one}/snapshot", self.keep),
                web.get(snapshot, self.get_snapshot),
                web.delete(snapshot, self.remove_snapshot),
                web.post(f"{snapshot}/activate", self.activate_snapshot),
                web.get("/logs/{name}", self.logs),
                web.post(f"{inside}/process/execute", self.execute),
                web.post(f"{inside}/files/bulk-upload", self.upload),
                web.post(f"{inside}/files/bulk-download", self.download),
            ]
        )
        self._events.attach(application, socketio_path="api/socket.io")
        application.on_startup.append(self._begin)
        application.on_shutdown.append(self.close)
        return application

    # --- for tests --------------------------------------------------------------------------------

    async def set_faults(self, request: web.Request) -> web.Response:
        """From now on, in place of those before."""
        self.faults, self.most = Faults(**await request.json()), len(self.sandboxes)
        return web.json_response({})

    async def tell_most(self, _request: web.Request) -> web.Response:
        """How many sandboxes there were at once."""
        return web.json_response(self.most)

    async def tell_created(self, _request: web.Request) -> web.Response:
        """Every request for a sandbox."""
        return web.json_response(self.created)

    async def tell_ttl(self, request: web.Request) -> web.Response:
        """How often its time to live was set."""
        return web.json_response(self._find(request).put_off)

    async def vanish(self, request: web.Request) -> web.Response:
        """As a provider loses one."""
        await self._end(self._find(request))
        return web.json_response({})

    async def starve(self, request: web.Request) -> web.Response:
        """As when the kernel kills the daemon for want of memory: the sandbox is said to run."""
        daemon = self._find(request).daemon
        assert daemon
        daemon.running.kill()
        await daemon.running.wait()
        return web.json_response({})

    # --- the control plane ------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        """A sandbox, started unless it has to be built."""
        faults, body = self.faults, await request.json()
        asked = control.CreateSandbox.from_dict(body)
        assert asked
        if faults.busy:
            faults.busy -= 1
            raise Refused(429, "ThrottlerException: Too Many Requests", "TOO_MANY_REQUESTS", **faults.waits())
        if 0 < faults.limit <= len(self.sandboxes):
            raise Refused(403, f"Total CPU limit exceeded. Maximum allowed: {faults.limit}.", "FORBIDDEN")
        if faults.quota:
            raise Refused(403, faults.quota, "FORBIDDEN")
        if asked.name in self.sandboxes:
            raise Refused(409, f"Sandbox with name {asked.name} already exists", "CONFLICT")
        if asked.snapshot and asked.snapshot.startswith(UNKNOWN) and asked.snapshot not in self.snapshots:
            raise Refused(400, f"Snapshot {asked.snapshot} not found. Did you add it?", "BAD_REQUEST")
        wanted = [mount.volume_id for mount in asked.volumes or ()]
        if unknown := [name for name in wanted if name.startswith("no-such")]:
            raise Refused(404, f"Volumes not found: {', '.join(unknown)}", "NOT_FOUND")
        self.created.append(body)
        sandbox = self._new(asked)
        if faults.late_create:
            self._later(self._appear(sandbox, faults.late_create))
            raise Refused(502, "bad gateway")
        self._add(sandbox)
        if faults.build or sandbox.state != "started":
            self._later(self._build(sandbox))
        else:
            await self._boot(sandbox)
        if faults.lost_create:
            faults.lost_create -= 1
            raise Refused(502, "bad gateway")
        await asyncio.sleep(faults.mute)
        return self._told(sandbox)

    async def list(self, request: web.Request) -> web.Response:
        """Those with all the labels, two to a page."""
        labels = json.loads(request.query.get("labels", "{}"))
        now = time.monotonic()
        known = [sandbox for sandbox in self.sandboxes.values() if now >= sandbox.listed]
        known += [sandbox for sandbox in self._gone.values() if now < sandbox.listed]
        found = [sandbox.about for sandbox in known if labels.items() <= sandbox.about["labels"].items()]
        start, size = int(request.query.get("cursor", 0)), min(2, int(request.query.get("limit", 2)))
        more = str(start + size) if start + size < len(found) else None
        items = [control.SandboxListItem.from_dict(about) for about in found[start : start + size]]
        answer = control.ListSandboxesResponse(items=items, next_cursor=more)  # type: ignore[arg-type]
        return web.json_response(answer.to_dict())

    async def get(self, request: web.Request) -> web.Response:
        """One."""
        return self._told(self._find(request))

    async def remove(self, request: web.Request) -> web.Response:
        """Begin to remove it."""
        sandbox = self._find(request)
        if sandbox.state == "destroying":
            raise Refused(409, "Sandbox state change in progress", "CONFLICT")
        sandbox.about["state"] = "destroying"
        self._later(self._remove(sandbox))
        return self._told(sandbox)

    async def set_ttl(self, request: web.Request) -> web.Response:
        """From now on."""
        sandbox = self._find(request)
        sandbox.ends = int(request.match_info["minutes"])
        sandbox.put_off += 1
        return self._told(sandbox)

    async def logs_url(self, request: web.Request) -> web.Response:
        """Where the log of its build is."""
        url = f"{self.url}/logs/{self._find(request).about['name']}"
        return web.json_response(control.Url(url=url).to_dict())

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """The log of a build."""
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"#1 FROM an image\n")
        sandbox = self._find(request)
        while sandbox.state == "building_snapshot":
            await asyncio.sleep(0.05)
        await answer.write(b"#2 DONE\n")
        return answer

    # --- snapshots --------------------------------------------------------------------------------

    async def keep(self, request: web.Request) -> web.Response:
        """What a sandbox is now, as a snapshot that shows up later."""
        asked = control.CreateSandboxSnapshot.from_dict(await request.json())
        assert asked
        sandbox = self._find(request)
        if self.faults.snapshot:
            raise Refused(403, self.faults.snapshot, "FORBIDDEN")
        if asked.name in {*self.snapshots, *self._keeping}:
            raise Refused(409, f"Snapshot with name {asked.name} already exists", "CONFLICT")
        self._keeping.add(asked.name)
        sandbox.about["state"] = "snapshotting"
        self._later(self._keep(sandbox, asked.name))
        return self._told(sandbox)

    async def _keep(self, sandbox: Sandbox, name: str) -> None:
        assert sandbox.daemon
        try:
            told = await sandbox.daemon.ask("pack", NOTHING, places=OWN)
        except Refused:
            self._keeping.discard(name)  # its sandbox has gone
            return
        sandbox.about["state"] = "started"
        await self._tell_state(sandbox)
        await asyncio.sleep(self.faults.late_snapshot)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        about = {"id": str(uuid.uuid4()), "name": name, "general": False, "state": "active", "size": 1.0}
        about |= {"entrypoint": None, "gpu": 0, "errorReason": None, "createdAt": now, "updatedAt": now}
        about |= {"cpu": sandbox.about["cpu"], "mem": sandbox.about["memory"], "disk": sandbox.about["disk"]}
        about["sourceSandboxId"] = sandbox.about["id"]
        self._keeping.discard(name)
        self.snapshots[name] = Snapshot(about, told["content"], sandbox.disk)

    async def get_snapshot(self, request: web.Request) -> web.Response:
        """One."""
        return self._told_snapshot(self._find_snapshot(request))

    async def remove_snapshot(self, request: web.Request) -> web.Response:
        """For good."""
        del self.snapshots[self._find_snapshot(request).about["name"]]
        return web.Response()

    async def activate_snapshot(self, request: web.Request) -> web.Response:
        """After two weeks without use, here after the test's word."""
        snapshot = self._find_snapshot(request)
        snapshot.about["state"] = "active"
        return self._told_snapshot(snapshot)

    async def set_snapshots(self, request: web.Request) -> web.Response:
        """For tests: the state of all, or none any more."""
        state = (await request.json())["state"]
        for snapshot in self.snapshots.values():
            snapshot.about["state"] = state
        if state is None:
            self.snapshots.clear()
        return web.json_response({})

    def _find_snapshot(self, request: web.Request) -> Snapshot:
        if self.faults.no_snapshots:
            raise Refused(403, "Forbidden resource", "FORBIDDEN")
        name = request.match_info["name"]
        for snapshot in self.snapshots.values():
            if name in (snapshot.about["name"], snapshot.about["id"]):
                return snapshot
        raise Refused(404, f"Snapshot with ID or name {name} not found", "NOT_FOUND")

    @staticmethod
    def _told_snapshot(snapshot: Snapshot) -> web.Response:
        told = control.SnapshotDto.from_dict(snapshot.about)
        assert told
        return web.Response(text=told.to_json(), content_type="application/json")

    # --- into a sandbox ---------------------------------------------------------------------------

    async def execute(self, request: web.Request) -> web.Response:
        """Run a command to its end."""
        asked = toolbox.ExecuteRequest.from_dict(await request.json())
        assert asked
        told = await self._ask(
            request, "execute", command=asked.command, cwd=asked.cwd, envs=asked.envs, timeout=asked.timeout
        )
        if told.get("late"):
            raise Refused(408, "command execution timeout", "PROCESS_EXECUTION_TIMEOUT")
        result = told["content"].read().decode(errors="replace")
        answer = toolbox.ExecuteResponse(exit_code=told["exitCode"], result=result)
        return web.json_response(answer.to_dict())

    async def upload(self, request: web.Request) -> web.Response:
        """Write files."""
        parts = await request.post()
        files = {
            str(parts[name.replace(".file", ".path")]): part.file
            for name, part in parts.items()
            if isinstance(part, web.FileField)
        }
        told = await self._ask(request, "upload", files)
        if "error" in told:
            return web.json_response({"errors": [told["error"]]}, status=400)
        return web.json_response({})

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Read one file."""
        asked = toolbox.FilesDownloadRequest.from_dict(await request.json())
        assert asked
        (path,) = asked.paths
        told = await self._ask(request, "download", name=path)
        error = {"message": told.get("error"), "statusCode": 404, "code": "FILE_NOT_FOUND"}
        name, kind, content = (
            ("error", "application/json", io.BytesIO(json.dumps(error).encode()))
            if "error" in told
            else ("file", "application/octet-stream", told["content"])
        )
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path}"\r\n'
        answer = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
        await answer.prepare(request)
        await answer.write(f"{head}Content-Type: {kind}\r\n\r\n".encode())
        while piece := content.read(PIECE):
            await answer.write(piece)
        await answer.write(f"\r\n--{boundary}--\r\n".encode())
        return answer

    async def _ask(
        self, request: web.Request, what: str, files: Mapping[str, BinaryIO] = NOTHING, **asked: Any
    ) -> Any:
        sandbox, faults = self._find(request), self.faults
        await asyncio.sleep(faults.delay)
        if faults.busy_calls:
            faults.busy_calls -= 1
            raise Refused(429, "Too Many Requests", "TOO_MANY_REQUESTS", **faults.waits())
        number = next(self._calls)
        turn, rest = divmod(number, faults.unsteady or number + 1)
        fails = faults.unsteady and rest == 0
        if faults.calls or (fails and turn % 2):
            faults.calls = max(0, faults.calls - 1)
            raise Refused(502, "bad gateway")
        if not sandbox.daemon:
            raise Refused(502, "bad gateway")
        sandbox.called = time.monotonic()
        told = await sandbox.daemon.ask(what, files, **asked)
        if faults.lost_calls or fails:
            faults.lost_calls = max(0, faults.lost_calls - 1)
            raise Refused(502, "bad gateway")
        return told

    # --- its sandboxes ----------------------------------------------------------------------------

    def _new(self, asked: Any) -> Sandbox:
        name = asked.name or uuid.uuid4().hex
        about = {
            **control.CreateSandbox.to_dict(asked),
            "id": str(uuid.uuid4()),
            "organizationId": "organization",
            "name": name,
            "user": "root",
            "public": False,
            "networkBlockAll": bool(asked.network_block_all),
            "kvm": False,
            "target": asked.target or "us",
            "cpu": asked.cpu or 1,
            "gpu": 0,
            "memory": asked.memory or 1,
            "disk": asked.disk or 3,
            "createdAt": datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z"),
            "toolboxProxyUrl": f"{self.url}/toolbox",
            "state": "pending_build" if self.faults.build or self.faults.boot else "started",
            "buildInfo": None,
        }
        if asked.build_info and not REFERENCE.fullmatch(asked.build_info.dockerfile_content):
            about["state"] = "pending_build"
        if not self.faults.walls:
            about.update(networkBlockAll=False, networkAllowList=None, domainAllowList=None)
        listed = time.monotonic() + self.faults.lag
        about["dockerfile"] = asked.build_info.dockerfile_content if asked.build_info else None
        snapshot = self.snapshots.get(asked.snapshot or "")
        if snapshot:
            about |= {"cpu": snapshot.about["cpu"], "memory": snapshot.about["mem"]}
            about["disk"] = snapshot.about["disk"]
        auto_stop = 15 if asked.auto_stop_interval is None else asked.auto_stop_interval
        return Sandbox(
            about,
            auto_stop,
            asked.ttl_minutes or 0,
            listed=listed,
            disk=snapshot.disk if snapshot else asked.disk,
        )

    def _told(self, sandbox: Sandbox) -> web.Response:
        told = control.Sandbox.from_dict(sandbox.about)
        assert told
        return web.json_response(told.to_dict())

    def _find(self, request: web.Request) -> Sandbox:
        name = request.match_info["name"]
        for sandbox in self.sandboxes.values():
            if name in (sandbox.about["name"], sandbox.about["id"]):
                return sandbox
        raise Refused(404, f"Sandbox with ID or name {name} not found", "NOT_FOUND")

    async def _build(self, sandbox: Sandbox) -> None:
        image, faults = sandbox.about["dockerfile"] or "", self.faults
        await asyncio.sleep(min(0.1, faults.build))
        sandbox.about["state"] = "building_snapshot"
        await asyncio.sleep(faults.build)
        if not REFERENCE.fullmatch(image):
            sandbox.about["errorReason"] = (
                f"failed to parse stage name {image[5:-1]!r}: invalid reference format"
            )
            sandbox.about["state"] = "build_failed"
        elif faults.boot:
            sandbox.about.update(state="error", errorReason=faults.boot)
        else:
            await self._boot(sandbox)
        await self._tell_state(sandbox)

    async def _tell_state(self, sandbox: Sandbox) -> None:
        told = {"sandbox": sandbox.about, "newState": sandbox.state}
        await self._events.emit("sandbox.state.updated", told)

    async def _appear(self, sandbox: Sandbox, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._add(sandbox)
        await self._boot(sandbox)

    def _add(self, sandbox: Sandbox) -> None:
        self.sandboxes[sandbox.about["name"]] = sandbox
        self.most = max(self.most, len(self.sandboxes))

    async def _boot(self, sandbox: Sandbox) -> None:
        about = sandbox.about
        sandbox.machine = Machine(
            self._place / about["name"],
            network=not about["networkBlockAll"],
            memory=about["memory"] * GIB,
            cpus=about["cpu"],
            disk=sandbox.disk and sandbox.disk * GIB,
        )
        words = ["python3", "-I", "-S", "-c", AGENT]
        running = await sandbox.machine.start(words, env={**ENVIRONMENT, **(about["env"] or {})}, stdin=True)
        sandbox.daemon = Daemon(running)
        if snapshot := self.snapshots.get(about.get("snapshot") or ""):
            await sandbox.daemon.ask("unpack", {RESTORED: snapshot.content}, name=RESTORED)
        about["state"] = "started"

    async def _remove(self, sandbox: Sandbox) -> None:
        await asyncio.sleep(self.faults.removal)
        await self._end(sandbox)

    async def _end(self, sandbox: Sandbox) -> None:
        if self.sandboxes.pop(sandbox.about["name"], None):
            sandbox.listed = time.monotonic() + self.faults.lag
            self._gone[sandbox.about["name"]] = sandbox
            machine, sandbox.machine = sandbox.machine, None
            if machine:
                await machine.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            now, minute = time.monotonic(), self.faults.minute
            for sandbox in list(self.sandboxes.values()):
                idle = now - sandbox.called > sandbox.auto_stop * minute > 0
                # Counted from the last call, so that a test can make minutes shorter meanwhile.
                if idle or now - sandbox.called > sandbox.ends * minute > 0:
                    await self._end(sandbox)

    async def _begin(self, _application: web.Application) -> None:
        self._later(self._watch())

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, _application: web.Application) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        for sandbox in list(self.sandboxes.values()):
            await self._end(sandbox)

    @web.middleware
    async def _checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            self._authenticate(request)
            answer: web.StreamResponse = await handler(request)
        except Refused as refused:
            inside = request.path.startswith("/toolbox")
            said = {
                "statusCode": refused.status,
                "message": str(refused),
                "code": refused.code,
                "source": "DAYTONA_DAEMON" if inside else "DAYTONA_API",
            }
            return web.json_response(said, status=refused.status, headers=refused.headers)
        return answer

    def _authenticate(self, request: web.Request) -> None:
        known = request.headers.get("Authorization") == f"Bearer {self._key}" and not self.faults.expired
        if not known and request.path.startswith(("/api/sandbox", "/toolbox")):
            raise Refused(401, "Invalid credentials", "UNAUTHORIZED")


def main() -> None:
    """Serve."""
    key = os.environ[KEY_VARIABLE]
    asyncio.run(serve("daytona-server", lambda place: Server(place, key)))


if __name__ == "__main__":
    main()
