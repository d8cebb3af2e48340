"""The metadata provider inside a sandbox: the task's own records, through the relay."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from metaflow.metadata_provider import MetadataProvider

from .relay import client, metaflow_errors


class RelayMetadata(MetadataProvider):
    """Registers what the task does; the relay knows which task it is."""

    TYPE: ClassVar[str]

    @classmethod
    def default_info(cls) -> str:
        """The launcher's own, for ``current.metadata_str`` and the like."""
        return os.environ.get("METAFLOW_SANDBOX_METADATA_INFO", "")

    @classmethod
    def compute_info(cls, val: str) -> str:
        """Any name is taken: there is one provider inside."""
        return val

    def version(self) -> str:
        """The provider's version is the launcher's business."""
        return self.TYPE

    def register_run_id(self, run_id: Any, tags: Any = None, sys_tags: Any = None) -> bool:
        """The scheduler has registered the run."""
        return False

    def register_task_id(
        self,
        run_id: Any,
        step_name: str,
        task_id: Any,
        attempt: int = 0,
        tags: Any = None,
        sys_tags: Any = None,
    ) -> bool:
        """Register where we run; the scheduler has registered tasks with numbers for ids."""
        if not str(task_id).isdigit():
            with metaflow_errors():
                client.call("register_task")
        self._register_system_metadata(run_id, step_name, task_id, attempt)
        return False

    def register_metadata(self, run_id: Any, step_name: str, task_id: Any, metadata: list[Any]) -> None:
        """Add entries to the task; what is wrong with them is raised by what is stored or registered next."""
        items = [
            {
                "field": str(datum.field),
                "value": None if datum.value is None else str(datum.value),
                "type": str(datum.type),
                "tags": [str(tag) for tag in datum.tags or []],
            }
            for datum in metadata
        ]
        with metaflow_errors():
            client.post("register_metadata", items=items)

    def register_data_artifacts(
        self, run_id: Any, step_name: str, task_id: Any, attempt_id: int, artifacts: list[Any]
    ) -> None:
        """Add artifacts to the task."""
        with metaflow_errors():
            client.settle()
            client.call("register_artifacts", items=[artifact._asdict() for artifact in artifacts])

    def start_task_heartbeat(self, flow_id: str, run_id: Any, step_name: str, task_id: Any) -> None:
        """Ask the launcher to beat until the task ends."""
        with metaflow_errors():
            client.post("heartbeat")

    @classmethod
    def filter_tasks_by_metadata(
        cls, flow_name: str, run_id: str, step_name: str, field_name: str, pattern: str
    ) -> list[str]:
        """Pathspecs of a step's tasks with such an entry, which Task.parent_tasks asks for."""
        from metaflow.plugins.metadata_providers.local import LocalMetadataProvider

        # The local provider's way needs nothing but get_object, which is the relay's here.
        found: list[str] = LocalMetadataProvider.filter_tasks_by_metadata.__func__(
            cls, flow_name, run_id, step_name, field_name, pattern
        )
        return found

    @classmethod
    def _get_object_internal(
        cls,
        obj_type: str,
        obj_order: int,
        sub_type: str,
        sub_order: int,
        filters: dict[str, Any] | None,
        attempt: int | None,
        *args: str,
    ) -> Any:
        with metaflow_errors():
            answer = client.call(
                "metadata_object",
                kind=obj_type,
                sub_kind=sub_type,
                filters=filters or {},
                attempt=attempt,
                path=[str(part) for part in args],
            )
        return answer["object"]


class LocalRelayMetadata(RelayMetadata):
    """``--metadata local``."""

    TYPE = "local"


class ServiceRelayMetadata(RelayMetadata):
    """``--metadata service``, without requests."""

    TYPE = "service"


class SpinRelayMetadata(RelayMetadata):
    """The metadata of ``spin``."""

    TYPE = "spin"
