"""The card's HTML: one file without scripts, fonts or anything else to fetch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape

from . import charts
from .stories import PHASES, RunStory, TaskStory

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1d2130;--soft:#5d6478;--edge:#dfe2ea;--fill:#f6f7fa;
--queue:#cfd4e2;--open:#f0a53c;--boot:#f4cf6a;--run:#3a66d6;--close:#7a8195;--area:#3a66d633}
@media (prefers-color-scheme:dark){:root{--ground:#14161d;--ink:#e8eaf2;--soft:#9aa1b5;--edge:#2d3140;
--fill:#1c1f29;--queue:#454b5e;--open:#e0973a;--boot:#d9b95b;--run:#7c9cff;--close:#8b92a6;--area:#7c9cff33}}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"DejaVu Sans",sans-serif}
main{max-width:900px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:21px;margin:0 0 2px}h2{font-size:16px;margin:30px 0 8px}
p{margin:4px 0}.soft,figcaption{color:var(--soft);font-size:13px}
section{overflow-x:auto}figure{margin:0}svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:var(--soft)}.end{text-anchor:end}.mid{text-anchor:middle}
.grid{stroke:var(--edge);stroke-width:1}.area{fill:var(--area)}
.line{fill:none;stroke:var(--run);stroke-width:1.6;stroke-linejoin:round}
.queue{fill:var(--queue)}.open{fill:var(--open)}.boot{fill:var(--boot)}.run{fill:var(--run)}
.close{fill:var(--close)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:5px 10px 5px 0;
border-bottom:1px solid var(--edge);vertical-align:top}th{font-weight:500;color:var(--soft);width:9em}
td{overflow-wrap:anywhere}.tiles{display:flex;flex-wrap:wrap;gap:10px;margin-top:14px}
.tiles div{background:var(--fill);border:1px solid var(--edge);border-radius:8px;padding:8px 14px}
.tiles b{display:block;font-size:17px;color:var(--ink)}
.key span{white-space:nowrap;margin-right:14px}
.key i{display:inline-block;width:11px;height:11px;margin-right:5px;
border-radius:2px}
"""
MEANING = {
    "queue": "waits for a place",
    "open": "the backend makes the sandbox",
    "boot": "until user code starts",
    "run": "the step",
    "close": "the sandbox is removed",
}


def page(task: TaskStory, run: RunStory | None) -> str:
    """The whole page."""
    name = f"Sandbox of {task.pathspec}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(name)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(task.pathspec)}</h1>",
        *_task(task),
        *(_run(run) if run is not None else []),
        "<h2>Environment</h2>",
        _table(task.environment),
        "</main></body></html>",
    ]
    return "".join(parts)


def _task(task: TaskStory) -> list[str]:
    if not task.facts:
        return ['<p class="soft">This task has not been in a sandbox.</p>']
    facts = task.facts
    walls = [f"isolation {facts.get('isolation', '?')}", f"network {facts.get('network', '?')}"]
    told = f"in a sandbox of {', '.join([facts.get('backend', '?'), *walls])}"
    parts = [f'<p class="soft">{escape(told)}</p>']
    tiles: dict[str, str] = {}
    if task.attempt is not None:
        tiles |= {phase: charts.seconds(spent) for phase, spent in task.attempt.phases.items()}
    if task.samples:
        tiles["peak memory"] = f"{max(sample.memory for sample in task.samples):.0f} MiB"
        tiles["CPU"] = charts.seconds(task.samples[-1].cpu)
    parts.append(_tiles(tiles))
    if task.attempt is not None:
        parts += ["<h2>Phases</h2>", _key(task.attempt.phases), charts.phases(task.attempt)]
        parts.append(
            '<p class="soft">The card is made while the sandbox is open: how long it took to close, and '
            "what the relay refused, are in the task's metadata then, and on the card of the last step.</p>"
        )
    if len(task.samples) > 1:
        for name, unit, points in (
            ("CPU", "cores", charts.cores(task.samples)),
            ("Memory", "MiB", charts.memory(task.samples)),
        ):
            if points:
                parts.append(f"<h2>{name} <span class=soft>{unit}</span></h2>")
                parts.append(charts.area(points, unit, f"{name} over time"))
    parts += ["<h2>Sandbox</h2>", _table(facts)]
    return parts


def _run(run: RunStory) -> list[str]:
    if not run.attempts:
        return ['<h2>All sandboxes of the run</h2><p class="soft">There were none.</p>']
    opened = [attempt.phases.get("open", 0.0) for attempt in run.attempts]
    queued = [attempt.phases.get("queue", 0.0) for attempt in run.attempts]
    parts = [
        "<h2>All sandboxes of the run</h2>",
        _tiles(
            {
                "sandboxes": str(len(run.attempts)),
                "median open": charts.seconds(statistics.median(opened)),
                "slowest open": charts.seconds(max(opened)),
                "longest in the queue": charts.seconds(max(queued)),
                "refusals": str(sum(run.refusals.values())),
            }
        ),
        _key(dict.fromkeys(PHASES, 0.0)),
        f"<section>{charts.gantt(run.attempts)}</section>",
    ]
    if run.left_out:
        parts.append(f'<p class="soft">{run.left_out} more tasks are not shown.</p>')
    if run.refusals:
        parts.append("<h2>Refusals</h2>")
        parts.append(_table({name: str(count) for name, count in run.refusals.items()}))
    return parts


def _table(rows: Mapping[str, str]) -> str:
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(lines)}</table>"


def _tiles(values: Mapping[str, str]) -> str:
    shown = (f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in values.items())
    return f'<div class="tiles soft">{"".join(shown)}</div>'


def _key(phases: Mapping[str, float]) -> str:
    marks = (
        f'<span><i style="background:var(--{phase})"></i>{phase}: {MEANING[phase]}</span> '
        for phase in PHASES
        if phase in phases
    )
    return f'<p class="key soft">{"".join(marks)}</p>'
