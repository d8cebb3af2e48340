"""``@sandbox`` and its aliases: a step's options, and the hooks that put a sandbox around it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from metaflow import metaflow_config
from metaflow.decorators import StepDecorator
from metaflow.exception import METAFLOW_EXIT_DISALLOW_RETRY, MetaflowException
from metaflow.plugins.timeout_decorator import get_run_time_limit_for_task
from metaflow.unbounded_foreach import UBF_CONTROL

from ..errors import SandboxError
from .attributes import ATTRIBUTES, InvalidAttribute, parse

if TYPE_CHECKING:
    from .launch import StepOptions

INSIDE_GUEST = "METAFLOW_SANDBOX_GUEST"
TIMELINE = "sandbox"  # the type of the card that shows samples
# Seconds that a step has beyond its @timeout, whose own alarm is what @catch and @retry have to see.
TIMEOUT_GRACE = 60.0
# Set by @resources; each is the larger of what it and the decorator ask for, as with @kubernetes.
RESOURCES = ("cpu", "memory", "disk")

NOT_IN_A_SANDBOX = """\
The step *{step}* is marked @{name} and this process is in no sandbox, so its code is not run.
A step is put into its sandbox by `run`, `resume` and `spin`. Argo Workflows, Step Functions, Airflow \
and a plain `step` command do not do that: remove @{name} from the step to run it there without one.
"""

SEVERAL_TASKS = """\
Step *{step}* is marked @{name}, and its first task starts the others (@parallel or an unbounded foreach): \
a sandbox holds one task only. Leave @{name} off this step, and mark the other steps instead of using --with.\
"""


def _has_timeline(decorators: list[Any]) -> bool:
    return any(deco.name == "card" and deco.attributes.get("type") == TIMELINE for deco in decorators)


class SandboxException(MetaflowException):
    """A sandbox that cannot be, told to the user without a traceback."""

    headline = "Sandbox error"


class SandboxDecorator(StepDecorator):
    """
    Runs this step in a throw-away sandbox.

    Parameters
    ----------
    backend : str, optional, default None
        Which sandbox: `bubblewrap`, the name of an installed backend, or `package.module:Class`.
        None takes METAFLOW_SANDBOX_BACKEND, else bubblewrap on Linux.
    image : str, optional, default None
        Image to run in, where the backend has images.
    cpu : float, optional, default None
        Limit, in cores.
    memory : int, optional, default None
        Limit, in MiB.
    disk : int, optional, default None
        Limit of what the step can write, in MiB.
    gpu : int, optional, default None
        Number of GPUs.
    timeout : float, optional, default None
        Seconds after which the sandbox is ended, whatever the step does.
    env : Dict[str, str], optional, default None
        Environment variables. Nothing else of the launcher's environment is passed in.
    mounts : Union[str, List[Union[str, Dict[str, str]]]], optional, default None
        Files and directories to show inside, read-only: `local:remote`, or `local:remote:rw`.
    packages : Dict[str, str], optional, default None
        Packages and their versions, which the step runs with instead of the launcher's own.
    requirements : str, optional, default None
        A requirements file, beside or instead of `packages`.
    python : str, optional, default None
        Version of Python for them, such as `"3.12"`; the launcher's own when unset.
    secrets : Dict[str, Union[str, List[str]]], optional, default None
        Environment variables of the launcher that the step may use and not see, each with the hosts that
        its value may be sent to. Inside they hold placeholders, which become the values on their way out.
    network : Union[str, List[str]], optional, default None
        `none` (the default), `host`, `public`, or host names that may be reached.
    isolation : str, optional, default None
        Refuse backends weaker than `process`, `container` or `vm`.
    executable : str, optional, default None
        Path of the Python interpreter inside.
    datastore_access : str, optional, default None
        `relay`: artifacts pass through the launcher. `direct`: the step reads and writes the flow's
        datastore in S3 itself. None takes the relay, and direct where a cloud's sandboxes can reach S3.
    backend_options : Dict[str, Any], optional, default None
        Options of one backend, listed in its documentation.
    keep : str, optional, default None
        `on-failure`: when the step fails its sandbox stays for a while, for `metaflow-sandbox shell`.
    """

    name = "sandbox"
    # Metaflow resolves @conda and @pypi for the ``target_platform`` of decorators that say so.
    supports_conda_environment = True
    defaults: ClassVar[dict[str, Any]] = dict.fromkeys(ATTRIBUTES)
    backend_name: ClassVar[str | None] = None

    def __init_subclass__(cls) -> None:
        """Let every alias check its options: Metaflow calls no ``init`` that is inherited."""
        super().__init_subclass__()
        cls.init = cls.init  # type: ignore[method-assign]

    def init(self) -> None:
        """Fill what is unset from METAFLOW_SANDBOX_…, and check every value."""
        for name in ATTRIBUTES:
            origin = f"@{self.name}({name}=…)"
            value = self.attributes[name]
            if value is None:
                origin = f"METAFLOW_SANDBOX_{name.upper()}"
                value = getattr(metaflow_config, f"SANDBOX_{name.upper()}")
            try:
                self.attributes[name] = parse(name, value)
            except InvalidAttribute as error:
                raise SandboxException(f"{origin} {error}; it is {value!r}.") from error
        if self.backend_name is not None:
            given = self.attributes["backend"]
            if given not in (None, self.backend_name, metaflow_config.SANDBOX_BACKEND):
                raise SandboxException(
                    f"@{self.name} is the backend {self.backend_name}; "
                    f"for {given} write @sandbox(backend={given!r})."
                )
            self.attributes["backend"] = self.backend_name
        self._asked_by_name = {name for name in RESOURCES if self.attributes[name] is not None}

    def make_decorator_spec(self) -> str:
        """Return the name alone: the options stay with the launcher, out of every task's command line."""
        return self.name

    @property
    def target_platform(self) -> str:
        """Conda's name of the platform inside."""
        from .conda_steps import target_platform

        return target_platform(metaflow_config.SANDBOX_TARGET_PLATFORM, self.attributes["backend"])

    def step_init(
        self,
        flow: Any,
        graph: Any,
        step: str,
        decos: list[Any],
        environment: Any,
        flow_datastore: Any,
        logger: Any,
    ) -> None:
        """Merge with the step's other decorators."""
        self._step = step
        self._decorators = decos
        self._flow_datastore = flow_datastore
        self._environment = environment
        self._active = self._is_the_one(step, decos)
        for other in decos:
            if other.name in ("batch", "kubernetes") and self._active:
                raise SandboxException(
                    f"Step *{step}* is marked @{self.name} and @{other.name}: use one of them."
                )
            if getattr(other, "IS_PARALLEL", False) and self._active:
                raise SandboxException(SEVERAL_TASKS.format(step=step, name=self.name))
            if other.name == "resources":
                self._merge_resources(other.attributes)

    def _is_the_one(self, step: str, decos: list[Any]) -> bool:
        ours = [deco for deco in decos if isinstance(deco, SandboxDecorator)]
        # One written in the code wins over one that --with or METAFLOW_DECOSPECS added.
        written = [deco for deco in ours if deco.statically_defined] or ours[:1]
        if len(written) > 1:
            names = " and ".join(f"@{deco.name}" for deco in written)
            raise SandboxException(f"Step *{step}* is marked {names}: use one of them.")
        return written[0] is self

    def _merge_resources(self, resources: dict[str, Any]) -> None:
        for name in RESOURCES:
            asked = resources.get(name)
            if asked is not None:
                self.attributes[name] = parse(name, max(float(asked), float(self.attributes[name] or 0)))
        if resources.get("gpu") is not None:
            self.attributes["gpu"] = parse("gpu", resources["gpu"])

    def runtime_init(self, flow: Any, graph: Any, package: Any, run_id: str) -> None:
        """Start the run's supervisor, and refuse what the backend cannot do."""
        if not self._active:
            return
        # Only the scheduler needs it: every other process of Metaflow imports this module, too.
        from .launch import RunLaunch
        from .made_environment import MadeEnvironment

        try:
            self._launch = RunLaunch.of_run(
                flow, package, run_id, self._flow_datastore, self.attributes["backend"]
            )
            step = getattr(flow, self._step)
            made = MadeEnvironment(self._environment, step, self.target_platform, self._decorators)
            self._options = self._launch.prepare(self._step, self.attributes, self._asked_by_name, made)
        except SandboxError as error:
            self.runtime_finished(error)
            raise SandboxException(f"Step *{self._step}*: {error}") from error

    def runtime_step_cli(
        self, cli_args: Any, retry_count: int, max_user_code_retries: int, ubf_context: Any
    ) -> None:
        """Put the shim in the task's place. The fallback of @catch runs no user code, so it stays outside."""
        if not self._active or retry_count > max_user_code_retries:
            return
        if ubf_context == UBF_CONTROL:
            raise SandboxException(SEVERAL_TASKS.format(step=self._step, name=self.name))
        options: StepOptions = self._options
        try:
            self._launch.hijack(cli_args, self._step, options, self._decorators, self._limit())
        except SandboxError as error:
            raise SandboxException(f"Step *{self._step}*: {error}") from error

    def _limit(self) -> float | None:
        """Seconds until the sandbox is ended from outside, None for never."""
        limits = [self.attributes["timeout"]]
        # Without @timeout Metaflow would answer five days, which a local step does not have.
        if any(deco.name == "timeout" for deco in self._decorators):
            limits.append(get_run_time_limit_for_task(self._decorators) + TIMEOUT_GRACE)
        return min((limit for limit in limits if limit is not None), default=None)

    def runtime_finished(self, exception: BaseException | None) -> None:
        """End the run's supervisor."""
        launch = getattr(self, "_launch", None)
        if launch is not None:
            launch.finish()

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        """Fail closed: user code outside a sandbox is not run."""
        if os.environ.get(INSIDE_GUEST):
            if self._active and _has_timeline(self._decorators):
                from .samples import start_sampling

                start_sampling()
            return
        if retry_count > max_retries:
            return
        sys.stderr.write(NOT_IN_A_SANDBOX.format(step=step_name, name=self.name))
        sys.stderr.flush()
        # Not an exception: @catch would take one for the step's own and let the flow go on.
        raise SystemExit(METAFLOW_EXIT_DISALLOW_RETRY)
