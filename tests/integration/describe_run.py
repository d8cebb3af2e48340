"""What the Client API says about a run, as JSON; its source is run where the flow ran."""

import hashlib
import re

from metaflow import DataArtifact, Run, namespace

LONG = 5000  # characters; of a longer value only the hash is told


def describe(pathspec, wanted=None):
    """{"run": facts, "tasks": {KEY: facts}} of FLOW/RUN; ``wanted`` names the only steps to look at.

    A task's key is STEP[INDEX, …]#N: its place in the foreaches around it, and N for the Nth turn of a loop.
    """
    namespace(None)
    run = Run(pathspec)
    ids = re.compile(rf"(?<![\w-]){re.escape(run.id)}/(\w+)/[\w-]+")

    def neutral(text):
        text = ids.sub(r"<run>/\1/<task>", text).replace(run.id, "<run>")
        text = re.sub(r"\b\d{16}\b", "<another run>", text)
        # A traceback's paths, and how an object is shown that has no repr of its own.
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+", "<time>", text)
        text = re.sub(r'File "[^"]*/([^/"]+)"', r'File "\1"', text)
        text = re.sub(r"\b[0-9a-f]{32}\b", "<uuid>", text)
        return re.sub(r" at 0x[0-9a-f]+", " at <address>", text)

    def value(data):
        if isinstance(data, (set, frozenset)):
            return f"{type(data).__name__}({sorted(map(repr, data))})"
        text = neutral(repr(data))
        return text if len(text) < LONG else f"{text[:40]}… {hashlib.sha1(text.encode()).hexdigest()}"

    def lines(text):
        return [neutral(line) for line in text.splitlines() if not line.startswith("[sandbox]")]

    tasks = {}
    for step in run:
        if wanted and step.id not in wanted:
            continue
        turns = {}
        for task in sorted(step, key=lambda task: (len(task.id), task.id)):
            frames = (
                DataArtifact(f"{task.pathspec}/_foreach_stack").data
                if "_foreach_stack" in names(task)
                else []
            )
            place = f"{step.id}{[frame.index for frame in frames or []]}"
            turns[place] = turns.get(place, 0) + 1
            artifacts = {artifact.id: artifact.data for artifact in task}
            metadata = task.metadata_dict
            tasks[f"{place}#{turns[place]}"] = {
                "id": task.id,
                "successful": task.successful,
                "finished": task.finished,
                "attempt": task.current_attempt,
                "index": task.index,
                "exception": neutral(str(task.exception)),
                "artifacts": {name: [type(data).__name__, value(data)] for name, data in artifacts.items()},
                "private": sorted(name for name in names(task) if name.startswith("_")),
                "stdout": lines(task.stdout),
                "stderr": lines(task.stderr),
                "sandbox_lines": [line for line in task.stderr.splitlines() if line.startswith("[sandbox]")],
                "metadata": {neutral(name): neutral(str(text)) for name, text in metadata.items()},
                "tags": sorted(task.user_tags),
                "parents": sorted(parent.split("/")[2] for parent in task.parent_task_pathspecs),
            }
    return {
        "run": {
            "id": run.id,
            "successful": run.successful,
            "finished": run.finished,
            "tags": sorted(run.user_tags),
            "system_tags": sorted(tag for tag in run.system_tags if not tag.startswith("date:")),
            "steps": sorted(step.id for step in run),
        },
        "tasks": tasks,
    }


def names(task):
    """Every artifact's name, those of Metaflow's own among them."""
    found = task._metaflow.metadata.get_object("task", "artifact", None, None, *task.path_components)
    return sorted({entry["name"] for entry in found or []})
