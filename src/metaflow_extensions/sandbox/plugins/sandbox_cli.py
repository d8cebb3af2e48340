"""``python flow.py sandbox …``: the commands of ``metaflow-sandbox``, which then know the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from metaflow._vendor import click


@click.group()  # type: ignore[untyped-decorator]  # Metaflow has no type hints
def cli() -> None:
    """What Metaflow adds to a flow's commands."""


@cli.command(  # type: ignore[untyped-decorator]
    "sandbox",
    help="See, debug and clean up the flow's sandboxes: ... sandbox --help",
    add_help_option=False,
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "allow_interspersed_args": False,
    },
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)  # type: ignore[untyped-decorator]
@click.pass_context  # type: ignore[untyped-decorator]
def sandbox(context: Any, arguments: tuple[str, ...]) -> None:
    """Hand everything on."""
    # Every process of every flow imports this module.
    from ..cli import FOR_FLOWS, leave, main

    program = f"{context.find_root().info_name} sandbox"
    leave(main(arguments, program=program, subcommands=FOR_FLOWS, context=FlowContext(context.obj)))


class FlowContext:
    """The flow, for the commands; made of what Metaflow gives to its own."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self.name: str = state.flow.name

    def checks(self) -> Mapping[str, Callable[[], str]]:
        """What looks whether the flow's providers answer."""
        return {"datastore": self._datastore, "metadata": self._metadata}

    def _datastore(self) -> str:
        store = self._state.flow_datastore
        root = f"{store.TYPE} {store.datastore_root}"
        # Of a flow that never ran there is nothing, which is an answer, too; a refusal is an error.
        list(store._storage_impl.list_content([self.name]))
        return f"{root} answers"

    def _metadata(self) -> str:
        provider = self._state.metadata
        provider.get_object("flow", "self", {}, None, self.name)
        return f"{provider.TYPE} {type(provider).INFO or ''} answers".replace("  ", " ")
