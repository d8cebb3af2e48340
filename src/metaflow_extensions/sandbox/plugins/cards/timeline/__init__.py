"""``@card(type="sandbox")``: a task's sandbox on one page, and on the step ``end`` all of the run's."""

from __future__ import annotations

from typing import Any

from metaflow.plugins.cards.card_modules.card import MetaflowCard


class SandboxCard(MetaflowCard):
    """Phases, CPU, memory, refusals, environment and isolation of a task."""

    type = "sandbox"

    def __init__(
        self,
        options: Any = None,
        components: Any = (),
        graph: Any = None,
        flow: Any = None,
        graph_info: Any = None,
    ) -> None:
        super().__init__()
        self._end = (graph_info or {}).get("end_step", "end")

    def render(self, task: Any) -> str:
        """The page, without anything to fetch."""
        # Every process of every flow imports this package.
        from .page import page
        from .stories import read_run, read_task

        story = read_task(task)
        step = task.parent
        return page(story, read_run(step.parent) if step.id == self._end else None)


CARDS = [SandboxCard]
