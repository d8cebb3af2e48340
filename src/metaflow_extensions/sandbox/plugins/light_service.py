"""Metaflow's service provider for a service on this machine, at the cost of the local one.

Metaflow's own imports ``requests``, asks twice for what one request can answer, and starts a second Metaflow
beside every task to beat.
"""

from __future__ import annotations

import json
import time
from typing import Any, TypeAlias

from metaflow.metadata_provider import MetadataProvider
from metaflow.metaflow_config import SERVICE_HEADERS, SERVICE_RETRY_COUNT, SERVICE_URL

from ..loopback import LOCAL, Answer, ask
from .light_heartbeat import Heart

Id: TypeAlias = "str | None"

RUN = "/flows/{flow_id}/runs/{run_number}"
TASK = RUN + "/steps/{step_name}/tasks/{task_id}"
BUSY = 503


class LightServiceMetadata(MetadataProvider):
    """``--metadata service``, where METAFLOW_SANDBOX_HEARTBEAT=light and the service is on this machine."""

    TYPE = "service"
    # What Metaflow's own provider notes on the class, for those of its methods that we call.
    _supports_tag_mutation: bool | None = None

    def __init__(self, environment: Any, flow: Any, event_logger: Any, monitor: Any) -> None:
        super().__init__(environment, flow, event_logger, monitor)
        self.url_run_template = f"{SERVICE_URL}{RUN}/heartbeat"
        self.url_task_template = f"{SERVICE_URL}{TASK}/heartbeat"
        self.sidecar: Heart | None = None
        self._steps: set[tuple[str, str]] = set()

    # --- where it is --------------------------------------------------------------------------

    @classmethod
    def compute_info(cls, val: str) -> str:
        """The service's URL. Raises ValueError when nothing answers there."""
        url = val.rstrip("/")
        try:
            found = ask_patiently("GET", f"{url}/ping")
        except OSError as error:
            raise ValueError(f"Metaflow service [{url}] unreachable.") from error
        if found.status_code >= 300:
            raise ValueError(f"Metaflow service [{url}] unreachable.")
        return url

    @classmethod
    def default_info(cls) -> str:
        """The URL in the environment."""
        return str(SERVICE_URL)

    def version(self) -> str | None:
        """The version that the service says."""
        return self._version(None)

    # --- runs and tasks -----------------------------------------------------------------------

    def new_run_id(self, tags: Any = None, sys_tags: Any = None) -> str:
        """Make a run, and its flow."""
        return str(self._new_run(None, tags, sys_tags)[0]["run_number"])

    def register_run_id(self, run_id: Any, tags: Any = None, sys_tags: Any = None) -> bool:
        """Make a run of a chosen id; False when it exists, as those with numbers do."""
        return not is_number(run_id) and self._new_run(run_id, tags, sys_tags)[1]

    def new_task_id(self, run_id: Any, step_name: str, tags: Any = None, sys_tags: Any = None) -> str:
        """Make a task, and its step."""
        return str(self._new_task(run_id, step_name, None, 0, tags, sys_tags)[0]["task_id"])

    def register_task_id(
        self,
        run_id: Any,
        step_name: str,
        task_id: Any,
        attempt: int = 0,
        tags: Any = None,
        sys_tags: Any = None,
    ) -> bool:
        """Make a task of a chosen id; of one that exists, say where it runs."""
        if is_number(task_id):
            self._register_system_metadata(run_id, step_name, task_id, attempt)
            return False
        return self._new_task(run_id, step_name, task_id, attempt, tags, sys_tags)[1]

    def _new_run(self, run_id: Id, tags: Any, sys_tags: Any) -> tuple[Any, bool]:
        self._create(f"/flows/{self._flow_name}", self._object_to_json("flow"))
        body = self._object_to_json("run", run_id, None, None, *self._all_tags(tags, sys_tags))
        return self._create(
            f"/flows/{self._flow_name}/run", body, run_id and object_path(self._flow_name, run_id)
        )

    def _new_task(
        self, run_id: Any, step_name: str, task_id: Id, attempt: int, tags: Any, sys_tags: Any
    ) -> tuple[Any, bool]:
        step = object_path(self._flow_name, run_id, step_name)
        if (run_id, step_name) not in self._steps:
            body = self._object_to_json("step", run_id, step_name, None, *self._all_tags(None, None))
            self._create(f"{step}/step", body)
            self._steps.add((run_id, step_name))
        body = self._object_to_json("task", run_id, step_name, task_id, *self._all_tags(tags, sys_tags))
        task, is_new = self._create(f"{step}/task", body, task_id and f"{step}/tasks/{task_id}")
        if is_new:
            self._register_system_metadata(run_id, step_name, task["task_id"], attempt)
        return task, is_new

    def _all_tags(self, tags: Any, sys_tags: Any) -> tuple[Any, Any]:
        return self.sticky_tags.union(tags or ()), self.sticky_sys_tags.union(sys_tags or ())

    def _create(self, path: str, body: Any, existing: Id = None) -> tuple[Any, bool]:
        return self._request(self._monitor, path, "POST", body, existing)

    # --- what a task registers ----------------------------------------------------------------

    def register_data_artifacts(
        self, run_id: Any, step_name: str, task_id: Any, attempt_id: int, artifacts: Any
    ) -> None:
        """Add artifacts to a task."""
        path = object_path(self._flow_name, run_id, step_name, task_id)
        body = self._artifacts_to_json(run_id, step_name, task_id, attempt_id, artifacts)
        self._create(f"{path}/artifact", body)

    def register_metadata(self, run_id: Any, step_name: str, task_id: Any, metadata: Any) -> None:
        """Add entries to a task."""
        path = object_path(self._flow_name, run_id, step_name, task_id)
        self._create(f"{path}/metadata", self._metadata_to_json(run_id, step_name, task_id, metadata))

    def start_run_heartbeat(self, flow_id: str, run_id: Any) -> None:
        """Beat for a run until ``stop_heartbeat`` or this process's end."""
        self._beat(self.url_run_template.format(flow_id=flow_id, run_number=run_id))

    def start_task_heartbeat(self, flow_id: str, run_id: Any, step_name: str, task_id: Any) -> None:
        """Beat for a task."""
        self._beat(
            self.url_task_template.format(
                flow_id=flow_id, run_number=run_id, step_name=step_name, task_id=task_id
            )
        )

    def _beat(self, url: str) -> None:
        # As Metaflow's own.
        assert self.sidecar is None, "heartbeat already started"
        self.sidecar = Heart(url)

    def stop_heartbeat(self) -> None:
        """Beat a last time."""
        if self.sidecar is not None:
            self.sidecar.terminate()

    # --- reading ------------------------------------------------------------------------------

    @classmethod
    def _get_object_internal(
        cls,
        obj_type: str,
        obj_order: int,
        sub_type: str,
        sub_order: int,
        filters: Any,
        attempt: int | None,
        *args: str,
    ) -> Any:
        path = "" if obj_type == "root" else object_path(*args[:obj_order])
        of_attempt = "" if attempt is None else f"/attempt/{attempt}"
        if sub_type != "self":
            of_task = obj_type == "task" and sub_type == "artifact"
            path += (
                f"{of_attempt if of_task else ''}/{sub_type if sub_type == 'metadata' else f'{sub_type}s'}"
            )
        elif obj_type == "artifact":
            path += of_attempt
        answer = cls._answer(None, path, "GET", None)
        if answer.status_code == 404:
            return None
        found = checked(answer, path).json()
        return (
            cls._apply_filter([found], filters)[0]
            if sub_type == "self"
            else cls._apply_filter(found, filters)
        )

    @classmethod
    def filter_tasks_by_metadata(
        cls, flow_name: str, run_id: str, step_name: str, field_name: str, pattern: str
    ) -> list[str]:
        """Paths of a step's tasks with such an entry; Metaflow's own way."""
        way = metaflows_own().ServiceMetadataProvider.filter_tasks_by_metadata
        found: list[str] = way.__func__(cls, flow_name, run_id, step_name, field_name, pattern)
        return found

    @classmethod
    def _mutate_user_tags_for_run(
        cls, flow_id: str, run_id: str, tags_to_add: Any = None, tags_to_remove: Any = None
    ) -> Any:
        way = metaflows_own().ServiceMetadataProvider._mutate_user_tags_for_run
        return way.__func__(cls, flow_id, run_id, tags_to_add=tags_to_add, tags_to_remove=tags_to_remove)

    # --- requests -----------------------------------------------------------------------------

    @classmethod
    def _request(
        cls,
        monitor: Any,
        path: str,
        method: str,
        data: Any = None,
        retry_409_path: Id = None,
        return_raw_resp: bool = False,
    ) -> tuple[Any, bool]:
        """The answer, and whether it is new: for a conflict, what is at ``retry_409_path``."""
        answer = cls._answer(monitor, path, method, data)
        if return_raw_resp:
            return answer, True
        if answer.status_code == 409 and data is not None:
            return (cls._request(monitor, retry_409_path, "GET")[0] if retry_409_path else None), False
        return checked(answer, path).json(), True

    @classmethod
    def _answer(cls, monitor: Any, path: str, method: str, data: Any) -> Answer:
        body = None if data is None else json.dumps(data)
        url = f"{cls.INFO}{path if path.startswith('/') else f'/{path}'}"
        if monitor is None:
            return ask_patiently(method, url, body)
        with monitor.measure(f"metaflow.service_metadata.{method.lower()}"):
            return ask_patiently(method, url, body)

    @classmethod
    def _version(cls, _monitor: Any) -> str | None:
        return cls._answer(None, "/ping", "GET", None).headers.get("METADATA_SERVICE_VERSION")


def ask_patiently(method: str, url: str, body: str | None = None) -> Answer:
    """Ask up to METAFLOW_SERVICE_RETRY_COUNT times: it may be started again meanwhile. Raises OSError."""
    headers = {**SERVICE_HEADERS, **({} if body is None else {"Content-Type": "application/json"})}
    for number in range(SERVICE_RETRY_COUNT):
        is_last = number == SERVICE_RETRY_COUNT - 1
        try:
            answer = ask_anywhere(method, url, headers, body)
        except OSError as error:
            if is_last:
                raise ConnectionError(f"no answer from the metadata service, {url}: {error}") from error
        else:
            if is_last or answer.status_code != BUSY:
                return answer
        time.sleep(2**number)
    raise OSError("METAFLOW_SERVICE_RETRY_COUNT allows no request")


def ask_anywhere(method: str, url: str, headers: Any, body: str | None) -> Answer:
    """Ask a service that need not be on this machine: the Client may be pointed at any. Raises OSError."""
    if url.startswith(LOCAL):
        return ask(method, url, headers, body)
    import requests

    # Its errors are OSErrors.
    found = requests.request(method, url, headers=headers, data=body, timeout=None)  # noqa: S113 -- as Metaflow
    return Answer(found.status_code, found.headers, found.text)


def checked(answer: Answer, path: str) -> Answer:
    """The answer, unless it is an error: then raises Metaflow's ServiceException."""
    if answer.status_code < 300:
        return answer
    raise metaflows_own().ServiceException(
        f"Metadata request ({path}) failed (code {answer.status_code}): {answer.text}",
        answer.status_code,
        answer.text,
    )


def metaflows_own() -> Any:
    """Metaflow's module, which imports ``requests``."""
    from metaflow.plugins.metadata_providers import service

    return service


def object_path(flow: str, run: Any = None, step: Id = None, task: Any = None, artifact: Id = None) -> str:
    """The path of the record that the names lead to."""
    levels = (("flows", flow), ("runs", run), ("steps", step), ("tasks", task), ("artifacts", artifact))
    return "".join(f"/{level}/{name}" for level, name in levels if name is not None)


def is_number(given: Any) -> bool:
    """Whether an id is one that a service has made."""
    try:
        int(given)
    except ValueError:
        return False
    return True
