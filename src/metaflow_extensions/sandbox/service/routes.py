"""The requests of Metaflow's service provider that metaflow-local-service lacks or answers differently.

What writes runs in the event loop, one after the other; what may read much, on threads.
"""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .records import Record, Records
from .refusals import Refusal
from .state import INSTANCE
from .tags import change_tags
from .task_records import ANY, TaskRecords

# Of metaflow-service: everything that Metaflow's provider asks for was there then.
VERSION = "2.5.0"

BEAT = 10  # seconds between heartbeats
FLOW = "/flows/{flow_id}"
RUN = FLOW + "/runs/{run_number}"
STEP = RUN + "/steps/{step_name}"
TASK = STEP + "/tasks/{task_id}"
ATTEMPT = "/attempt/{attempt:int}"


class Routes:
    """The handlers, over one store; ``instance`` tells this process of the service from any other."""

    def __init__(self, records: Records, instance: str) -> None:
        self._records = records
        self._tasks = TaskRecords(records)
        self._instance = instance
        self._beats: dict[tuple[str, ...], int] = {}

    def all(self) -> list[Route]:
        """Every route."""
        return [
            Route("/ping", self.ping),
            Route("/flows", self.below),
            Route(FLOW, self.one),
            Route(FLOW, self.create, methods=["POST"]),
            Route(FLOW + "/runs", self.below),
            Route(FLOW + "/run", self.create_run, methods=["POST"]),
            Route(RUN, self.one),
            Route(RUN + "/heartbeat", self.heartbeat, methods=["POST"]),
            Route(RUN + "/tag/mutate", self.change_tags, methods=["PATCH"]),
            Route(RUN + "/steps", self.below),
            Route(STEP, self.one),
            Route(STEP + "/step", self.create, methods=["POST"]),
            Route(STEP + "/tasks", self.below),
            Route(STEP + "/filtered_tasks", self.filtered_tasks),
            Route(STEP + "/task", self.create_task, methods=["POST"]),
            Route(TASK, self.one),
            Route(TASK + "/heartbeat", self.heartbeat, methods=["POST"]),
            Route(TASK + "/metadata", self.metadata),
            Route(TASK + "/metadata", self.add_metadata, methods=["POST"]),
            Route(TASK + "/artifact", self.add_artifacts, methods=["POST"]),
            Route(TASK + "/artifacts", self.artifacts),
            Route(TASK + ATTEMPT + "/artifacts", self.artifacts),
            Route(TASK + "/artifacts/{name}", self.artifact),
            Route(TASK + "/artifacts/{name}" + ATTEMPT, self.artifact),
        ]

    # --- every kind of record -----------------------------------------------------------------

    async def ping(self, _: Request) -> Response:
        """The version, by which Metaflow decides what it may ask for, and who answers."""
        headers = {"METADATA_SERVICE_VERSION": VERSION, INSTANCE: self._instance}
        return PlainTextResponse("pong", headers=headers)

    async def one(self, request: Request) -> Response:
        """A flow, run, step or task."""
        return JSONResponse(self._with_beat(self._records.one(path(request))))

    def below(self, request: Request) -> Response:
        """Those one level down."""
        return JSONResponse([self._with_beat(record) for record in self._records.below(path(request))])

    async def create(self, request: Request) -> Response:
        """A flow or a step."""
        return JSONResponse(self._records.create(path(request), await json_object(request)), 201)

    async def create_run(self, request: Request) -> Response:
        """A run, and its flow."""
        (flow,) = path(request)
        return JSONResponse(self._records.create_run(flow, await json_object(request)), 201)

    async def create_task(self, request: Request) -> Response:
        """A task, and its step."""
        flow, run, step = path(request)
        return JSONResponse(self._records.create_task(flow, run, step, await json_object(request)), 201)

    async def change_tags(self, request: Request) -> Response:
        """The run's tags afterwards."""
        flow, run = path(request)
        tags = change_tags(self._records, flow, run, await json_object(request))
        return JSONResponse({"tags": tags})

    async def heartbeat(self, request: Request) -> Response:
        """When to come again, in JSON within JSON: Metaflow's sidecar decodes it twice."""
        at = path(request)
        if at not in self._beats and not self._records.exists(at):
            raise Refusal(404, f"nothing that could live at {'/'.join(at)}")
        self._beats[at] = round(time.time())
        return JSONResponse(json.dumps({"wait_time_in_seconds": BEAT}))

    def _with_beat(self, record: Record) -> Record:
        fields = (record.get(name) for name in ("flow_id", "run_number", "step_name", "task_id"))
        beat = self._beats.get(tuple(str(field) for field in fields if field is not None))
        return record if beat is None else {**record, "last_heartbeat_ts": beat}

    # --- tasks --------------------------------------------------------------------------------

    def metadata(self, request: Request) -> Response:
        """All of a task's metadata."""
        return JSONResponse(self._tasks.metadata(path(request)))

    async def add_metadata(self, request: Request) -> Response:
        """Keep a list of it."""
        self._tasks.add_metadata(path(request), await json_objects(request))
        return JSONResponse({})

    async def add_artifacts(self, request: Request) -> Response:
        """Keep a list of them."""
        self._tasks.add_artifacts(path(request), await json_objects(request))
        return JSONResponse({})

    def artifacts(self, request: Request) -> Response:
        """Those of one attempt."""
        return JSONResponse(self._tasks.artifacts(path(request), request.path_params.get("attempt")))

    def artifact(self, request: Request) -> Response:
        """One."""
        name, attempt = request.path_params["name"], request.path_params.get("attempt")
        return JSONResponse(self._tasks.artifact(path(request), name, attempt))

    def filtered_tasks(self, request: Request) -> Response:
        """Paths of a step's tasks, chosen by their metadata."""
        query = request.query_params
        field, pattern = query.get("metadata_field_name", ""), query.get("pattern", ANY)
        return JSONResponse(self._tasks.tasks_with(path(request), field, pattern))


def path(request: Request) -> tuple[str, ...]:
    """The names in the request's path that lead to a record."""
    given = request.path_params
    names = ("flow_id", "run_number", "step_name", "task_id")
    return tuple(given[name] for name in names if name in given)


async def json_object(request: Request) -> Record:
    """The body, a JSON object. Raises Refusal."""
    body = await json_body(request)
    if not isinstance(body, dict):
        raise Refusal(400, "the body has to be a JSON object")
    return body


async def json_objects(request: Request) -> list[Record]:
    """The body, a list of JSON objects, or one. Raises Refusal."""
    body = await json_body(request)
    entries = body if isinstance(body, list) else [body]
    if not all(isinstance(entry, dict) for entry in entries):
        raise Refusal(400, "the body has to be a list of JSON objects")
    return entries


async def json_body(request: Request) -> Any:
    """The body. Raises Refusal when it is not JSON."""
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
