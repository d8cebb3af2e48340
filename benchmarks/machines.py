"""What a step in a virtual machine costs besides the machine: over the tests' stand-ins for its providers.

A stand-in's machine is there at once, and so is its end; what both take with the provider's SDK alone is
measured apart, and taken away.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter

from metaflow_extensions.sandbox.backends.async_calls import loop
from metaflow_extensions.sandbox.backends.interface import SandboxSpec

from .disks import with_disks_in_memory
from .images import STEPS, turns
from .measure import Series, run_flow
from .report import Row

LIMIT = 150.0  # milliseconds a task
DEADLINE = 30.0  # seconds for one machine
Machine = Callable[[], Awaitable[object]]
StandIn = tuple[Mapping[str, str], Machine]


def steps_in_machines(directory: Path, repeat: int) -> list[Row]:
    """A row for each backend of virtual machines."""
    over = {"boxlite": over_boxlite, "microsandbox": over_microsandbox}
    return [above_a_machine(name, stand_in, directory, repeat) for name, stand_in in over.items()]


def above_a_machine(
    name: str,
    stand_in: Callable[[], contextlib.AbstractContextManager[StandIn]],
    directory: Path,
    repeat: int,
) -> Row:
    with stand_in() as (settings, machine):
        environment = {"METAFLOW_SANDBOX_BACKEND": name, **settings}

        def bare() -> float:
            begin = perf_counter()
            loop().call(machine, DEADLINE)
            return perf_counter() - begin

        def chain(sandboxed: int) -> float:
            variables = {**environment, "CHAIN_SANDBOXED": str(sandboxed)}
            return run_flow("chain.py", "run", directory=directory, environment=variables).seconds

        # The first of a run pays for the supervisor's start and the SDK's import, which no other does.
        measured = turns(repeat, bare, lambda: chain(1), lambda: chain(STEPS))
    machines, first, every = (Series(tuple(times)) for times in measured)
    added, median = (every.low - first.low) / (STEPS - 1), (every.median - first.median) / (STEPS - 1)
    return Row(
        f"a step in {name}, above a plain one and a machine of its stand-in",
        f"{machines.low * 1000:.0f} ms ±{machines.spread:.0%}",
        f"{added * 1000:.0f} ms",
        (added - machines.low) * 1000,
        "ms",
        LIMIT,
        repeat,
        (median - machines.median) * 1000,
    )


# The SDKs and the stand-ins are imported by those who measure them.


@contextlib.contextmanager
def over_boxlite() -> Iterator[StandIn]:
    import boxlite
    from tests.integration.boxlite import KEY, boxlite_server

    from metaflow_extensions.sandbox.backends.boxlite.machine import machine

    with with_disks_in_memory(boxlite_server()) as server:
        options = boxlite.BoxliteRestOptions(server.url, credential=boxlite.ApiKeyCredential(KEY))

        async def live() -> None:
            runtime = boxlite.Boxlite.rest(options)
            name = f"floor-{secrets.token_hex(4)}"
            box = await runtime.create(machine(SandboxSpec(), remote=True), name=name)
            await box.start()
            await runtime.remove(name, force=True)

        yield server.settings, live


@contextlib.contextmanager
def over_microsandbox() -> Iterator[StandIn]:
    import microsandbox
    from tests.integration.microsandboxes import KEY, stand_in

    from metaflow_extensions.sandbox.backends.microsandbox.creation import plan
    from metaflow_extensions.sandbox.backends.microsandbox.network import Placeholders

    with with_disks_in_memory(stand_in()) as cloud:
        microsandbox.set_default_backend(microsandbox.BackendKind.CLOUD, url=cloud.url, api_key=KEY)

        async def live() -> None:
            spec, name = SandboxSpec(image=cloud.image), f"floor-{secrets.token_hex(4)}"
            await microsandbox.Sandbox.create(name, image=cloud.image, **plan(spec, Placeholders(())))
            await microsandbox.Sandbox.remove(name)

        yield {**cloud.settings, "METAFLOW_SANDBOX_IMAGE": cloud.image}, live
