"""From a step's options to the task settings that the supervisor gets, in the scheduler's process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from metaflow.metaflow_config import DEFAULT_SECRETS_ROLE
from metaflow.plugins.datastores.local_storage import LocalStorage
from metaflow.plugins.secrets.secrets_spec import SecretSpec
from metaflow.system_context import system_context
from metaflow.util import decompress_list, get_username

from ..backends import registry
from ..backends.interface import Backend, Feature, SandboxSpec, Secret
from ..backends.python_env import discover
from ..errors import UnsupportedOption
from ..packages.cache import PackageCache, default_directory
from ..relay.policy import TaskIdentity
from ..relay.services import SecretSource
from ..supervisor.protocol import Packages, RunSettings, TaskSettings
from .attributes import ON_FAILURE
from .code_package import copy_code
from .direct_access import DatastoreAccess, DirectAccess
from .libraries import libraries
from .made_environment import MadeEnvironment, own_packages
from .mounts import as_mounts, check_mounts, parse_uploads
from .settings import number, rate, setting
from .step_environment import card_root, step_environment
from .supervisor_link import SupervisorLink
from .telling import telling

LIFETIME_MARGIN = 60.0  # seconds that a provider keeps a sandbox longer than we let it run
NEEDED = {"cpu": Feature.CPU_LIMIT, "memory": Feature.MEMORY_LIMIT, "disk": Feature.DISK_LIMIT}


@dataclass(frozen=True)
class StepOptions:
    """A step's options once the backend has agreed to them."""

    backend: str
    spec: SandboxSpec
    env: Mapping[str, str]
    executable: str | None
    keep: bool = False
    direct: DirectAccess | None = None
    packages: Packages | None = None


class RunLaunch:
    """The sandboxed steps of one run; made by whichever of them comes first."""

    _runs: ClassVar[dict[str, RunLaunch]] = {}

    @classmethod
    def of_run(
        cls, flow: Any, package: Any, run_id: str, flow_datastore: Any, backend: str | None
    ) -> RunLaunch:
        """The launch of a run, made when first asked for, by a step with that ``backend``."""
        if run_id not in cls._runs:
            cls._runs[run_id] = cls(flow, package, run_id, flow_datastore, backend)
        return cls._runs[run_id]

    def __init__(
        self, flow: Any, package: Any, run_id: str, flow_datastore: Any, backend: str | None
    ) -> None:
        self._flow = flow.name
        self._run_id = str(run_id)
        self._first_backend = backend or registry.default_name()
        self._script = sys.argv[0]
        self._datastore = (flow_datastore.TYPE, flow_datastore.datastore_root)
        self._access = DatastoreAccess(self._flow, self._run_id, self._datastore)
        self._metadata = system_context.metadata
        self._flow_directory = flow_directory = Path(self._script).resolve().parent
        self._python = discover(exclude=[flow_directory])
        self._cache = PackageCache(default_directory(setting("CACHE")))
        self._uploads = parse_uploads(setting("UPLOADS"))
        # The flow's own directory is the script's, which Python puts first: nothing there is imported
        # by the supervisor.
        first = Path(sys.path[0] or ".").resolve() if sys.path else None
        self._sys_path = [entry for entry in sys.path[first == flow_directory :] if entry]
        self._backends: dict[str, Backend] = {}
        self._telling = telling()
        max_code = number("MAX_CODE") << 20
        self._link = SupervisorLink(self._run_settings, lambda target: copy_code(package, target, max_code))

    def prepare(
        self, step: str, attributes: Mapping[str, Any], asked_by_name: Iterable[str], made: MadeEnvironment
    ) -> StepOptions:
        """Raise SandboxError unless the step's backend can run here and honour its options.

        Limits that only @resources asks for are requests, as everywhere in Metaflow: where the
        backend has no such limit, they are dropped, and where it has not that size, the next one is taken.
        """
        name = attributes["backend"] or registry.default_name()
        backend = self._backend(name)
        registry.require_isolation(backend, name, attributes["isolation"])
        if not {Feature.MOUNT, Feature.STDIN} & backend.features:
            raise UnsupportedOption(
                f"the sandbox backend {name!r} has neither MOUNT nor STDIN: nothing can be passed into its "
                "sandboxes, choose another one"
            )
        limits = {
            limit: attributes[limit] if limit in asked_by_name else _next_size(backend, limit, attributes)
            for limit, feature in NEEDED.items()
            if limit in asked_by_name or feature in backend.features
        }
        hosted = Feature.HOST_PYTHON in backend.features
        direct = self._access.choose(step, attributes, backend, name)
        spec = SandboxSpec(
            labels={
                "flow": self._flow,
                "run": self._run_id,
                "step": step,
                "user": get_username() or "",
            },
            image=attributes["image"],
            gpu=attributes["gpu"],
            network=direct.network if direct else attributes["network"] or "none",
            mounts=as_mounts(attributes["mounts"] or ()),
            python=self._python if hosted else None,
            options=attributes["backend_options"] or {},
            secrets=tuple(values_of(attributes["secrets"] or {})),
            **limits,
        )
        registry.check_options(spec, backend, name)
        kind, root = self._datastore
        check_mounts(
            spec.mounts,
            self._flow_directory,
            Path(root) if kind == "local" else None,
            [self._cache.directory],
        )
        keep = attributes["keep"] == ON_FAILURE or bool(self._telling.debug)
        chosen = StepOptions(name, spec, attributes["env"] or {}, attributes["executable"], keep, direct)
        own = own_packages(
            attributes,
            spec,
            backend.features,
            getattr(backend, "default_image", None),
            self._flow_directory,
            made,
            self._cache,
        )
        if own is None:
            return chosen
        # The launcher's boto3 is not visible beside packages of the step's own.
        direct = direct and direct.with_libraries()
        return replace(chosen, spec=own.spec, packages=own.packages, direct=direct)

    def hijack(
        self, cli_args: Any, step: str, options: StepOptions, decorators: Iterable[Any], timeout: float | None
    ) -> None:
        """Put the shim in the place of the task that the command line describes."""
        command = cli_args.command_options
        identity = TaskIdentity(
            self._flow, str(command["run-id"]), step, str(command["task-id"]), int(command["retry-count"])
        )
        kind, root = self._datastore
        storages = {f"{kind}@{root}": True, f"{kind}@{card_root(kind, root)}": True}
        if options.direct:
            storages.clear()  # it has what it needs
        elif command.get("orig-flow-datastore"):
            storages.setdefault(command["orig-flow-datastore"], False)
        labels = {**options.spec.labels, "task": identity.task, "attempt": str(identity.attempt)}
        settings = TaskSettings(
            identity=identity,
            backend=options.backend,
            spec=replace(options.spec, labels=labels, lifetime=self._lifetime(timeout, keep=options.keep)),
            env={
                **self._environment(options, decorators),
                **(options.direct.of_task(identity) if options.direct else {}),
            },
            inputs=["/".join(path.split("/")[:3]) for path in decompress_list(command["input-paths"] or "")],
            storages=storages,
            secrets=list(declared_secrets(decorators)),
            timeout=timeout,
            executable=options.executable,
            keep=options.keep,
            direct=options.direct.settings if options.direct else None,
            uploads=self._uploads,
            packages=options.packages,
        )
        cli_args.entrypoint = [*self._link.entrypoint(settings), *cli_args.entrypoint]

    def _lifetime(self, timeout: float | None, *, keep: bool) -> float | None:
        if timeout is None:
            return None
        return timeout + LIFETIME_MARGIN + (self._telling.keep_for if keep else 0.0)

    def finish(self) -> None:
        """End the supervisor; idempotent."""
        self._runs.pop(self._run_id, None)
        self._link.close()

    def _backend(self, name: str) -> Backend:
        if name not in self._backends:
            backend = registry.load(name)
            backend.check()
            self._backends[name] = backend
        return self._backends[name]

    def _environment(self, options: StepOptions, decorators: Iterable[Any]) -> dict[str, str]:
        variables = {
            name: str(value)
            for decorator in decorators
            if decorator.name == "environment"
            for name, value in decorator.attributes["vars"].items()
        }
        return step_environment(
            run_id=self._run_id,
            datastore_type=self._datastore[0],
            cards=card_root(*self._datastore),
            metadata_type=self._metadata.TYPE,
            metadata_info=str(type(self._metadata).INFO),
            python_path=map(str, options.spec.python.path if options.spec.python else ()),
            user_variables={**variables, **options.env},
        )

    def _run_settings(self, directory: str, control: int) -> RunSettings:
        local_root = LocalStorage.datastore_root or LocalStorage.get_datastore_root_from_config(
            lambda *_args, **_kwargs: None, create_on_absent=False
        )
        kind, root = self._datastore
        return RunSettings(
            flow=self._flow,
            run=self._run_id,
            script=self._script,
            directory=directory,
            control=control,
            sys_path=self._sys_path,
            metadata=self._metadata.TYPE,
            local_root=local_root or "",
            datastore=f"{kind}@{root}",
            backends=[*self._backends] or [self._first_backend],
            libraries=libraries(),
            tags=sorted(self._metadata.sticky_tags),
            max_artifact=number("MAX_ARTIFACT"),
            max_upload=number("MAX_UPLOAD"),
            max_output=number("MAX_OUTPUT"),
            max_infra_retries=number("MAX_INFRA_RETRIES"),
            max_sandboxes=number("MAX_SANDBOXES"),
            max_rate=rate("MAX_RATE"),
            cache=str(self._cache.directory),
            cache_size=number("CACHE_SIZE"),
            artifacts=artifact_mode(),
            artifact_globals=[
                part.strip() for part in str(setting("ARTIFACT_GLOBALS")).split(",") if part.strip()
            ],
            **asdict(self._telling),
        )


def values_of(secrets: Mapping[str, Sequence[str]]) -> Iterable[Secret]:
    """The secrets with their values. Raises UnsupportedOption for one that the launcher does not have."""
    for name, hosts in secrets.items():
        if not os.environ.get(name):
            raise UnsupportedOption(
                f"secrets names {name}, which is not in this environment: export {name}=…, or leave it out"
            )
        yield Secret(name, os.environ[name], tuple(hosts))


def artifact_mode() -> str:
    """METAFLOW_SANDBOX_ARTIFACTS. Raises UnsupportedOption for an unknown mode."""
    mode = setting("ARTIFACTS")
    if mode not in ("any", "vetted"):
        raise UnsupportedOption(f"METAFLOW_SANDBOX_ARTIFACTS is 'any' or 'vetted'; it is {mode!r}")
    return str(mode)


def declared_secrets(decorators: Iterable[Any]) -> Iterable[SecretSource]:
    """The sources of the step's @secrets, as Metaflow itself reads them."""
    for decorator in decorators:
        if decorator.name != "secrets":
            continue
        role = decorator.attributes["role"] or DEFAULT_SECRETS_ROLE
        for source in decorator.attributes["sources"]:
            parse = (
                SecretSpec.secret_spec_from_str
                if isinstance(source, str)
                else SecretSpec.secret_spec_from_dict
            )
            spec = parse(source, role=role)
            yield SecretSource(spec.secrets_backend_type, spec.secret_id, spec.options, spec.role)


def _next_size(backend: Backend, limit: str, attributes: Mapping[str, Any]) -> Any:
    amount = attributes[limit]
    next_size = getattr(backend, "next_size", None)
    return next_size(limit, amount) if next_size and amount is not None else amount
