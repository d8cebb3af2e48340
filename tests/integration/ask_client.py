"""Questions to the Client API about a run, and its answers as JSON; its source is run where the flow ran.

Each question is a function of a run; an error is an answer, too. The answers hold what two runs of one flow
have in common; ``exact`` tells ids and times as well, to compare two ways of reading one run.
"""

import json
import re
import sys

from metaflow import DataArtifact, Flow, Metaflow, Run, Step, Task, get_namespace, namespace

RUN = re.compile(r"\b\d{16}\b")
# How an object without a repr of its own is shown, where files are, when something was.
CHANGING = re.compile(
    r" at 0x[0-9a-f]+|File \"[^\"]*\"|\d{4}-\d\d-\d\d[ T][\d:.]+|, line \d+|\b[0-9a-f]{32}\b"
)
# Values that differ between any two runs; a task's id is the provider's own.
OWN = ("ds-root", "code-package", "sandbox-id", "sandbox-timings", "git-info", "origin-task-id")
OWN += ("sandbox-cpu-seconds", "sandbox-peak-memory-mib", "sandbox-startup")


def neutral(text):
    text = re.sub(r"(<run>/\w+)/[\w-]+", r"\1/<task>", RUN.sub("<run>", str(text)))
    return CHANGING.sub("<>", text)


def key(task):
    """A task's step and its place in the foreaches."""
    return f"{task.parent.id}[{task.metadata_dict.get('foreach-execution-path', '')}]"


def each_task(run, answer):
    return {key(task): attempted(answer, task) for step in run for task in step}


def attempted(answer, *about):
    try:
        return answer(*about)
    except Exception as error:  # noqa: BLE001 -- whatever it is has to be the same
        return neutral(f"{type(error).__name__}: {str(error).removeprefix('Metadata service says: ')}")


def names(task):
    found = task._metaflow.metadata.get_object("task", "artifact", None, task._attempt, *task.path_components)
    return sorted(entry["name"] for entry in found or [])


def told(value):
    return neutral(repr(value))[:300]


def run_facts(run):
    end = run.end_task
    return [run.successful, run.finished, run.finished_at is not None, end and end.parent.id]


def run_data(run):
    return run.data and {
        name: told(getattr(run.data, name)) for name in sorted(dir(run.data)) if name[0] != "_"
    }


def run_tags(run):
    return [sorted(run.user_tags), sorted(run.system_tags - {tag for tag in run.tags if "date:" in tag})]


def tasks(run):
    """Steps and tasks, by iterating, by name and by path."""
    found = {step.id: sorted(map(key, step)) for step in run}
    for step in run:
        assert run[step.id].pathspec == Step(step.pathspec).pathspec == step.pathspec
        for task in step:
            assert step[task.id].pathspec == Task(task.pathspec).pathspec == task.pathspec
    return [found, sorted(step.id for step in run), "no_such_step" in run]


def task_facts(run):
    def facts(task):
        return [task.successful, task.finished, neutral(task.exception), task.index, task.current_attempt]

    return each_task(run, facts)


def artifact_by_name(run):
    return each_task(
        run, lambda task: {name: told(task[name].data) for name in names(task) if name[0] != "_"}
    )


def artifact_by_path(run):
    def by_path(task):
        found = (DataArtifact(f"{task.pathspec}/{name}") for name in ("_task_ok", "_success"))
        return [[told(artifact.data), artifact.sha, artifact.size] for artifact in found]

    return each_task(run, by_path)


def artifact_absent(run):
    return each_task(run, lambda task: ["no_such_artifact" in task, "_task_ok" in task])


def artifact_lists(run):
    def lists(task):
        return [
            sorted(a.id for a in task),
            sorted(task.artifacts._fields),
            told(sorted(map(str, task.data._artifacts))),
        ]

    return each_task(run, lists)


def artifact_list_with_private(run):
    return each_task(run, names)


def attempts(run):
    """Each attempt's own artifacts, metadata and outcome."""

    def attempt(task, number):
        task = Task(task.pathspec, attempt=number)
        found = {
            name: told(DataArtifact(f"{task.pathspec}/{name}", attempt=number).data) for name in public(task)
        }
        # Of two entries of a field in one millisecond, the local provider keeps one: told once here, too.
        fields = sorted({(neutral(m.name), neutral(m.value)) for m in task.metadata if m.name not in OWN})
        return [found, names(task), fields, task.successful, task.finished, neutral(task.stdout)]

    def public(task):
        return [name for name in names(task) if name[0] != "_"]

    return each_task(run, lambda task: [attempted(attempt, task, number) for number in range(3)])


def metadata(run):
    def entries(task):
        kept = ([m.name, m.type, "" if m.name in OWN else m.value] for m in task.metadata)
        return sorted({tuple(map(neutral, entry)) for entry in kept})  # once, as above

    return each_task(run, entries)


def latest_metadata(run):
    def latest(task):
        return {
            neutral(name): neutral(value) for name, value in task.metadata_dict.items() if name not in OWN
        }

    return each_task(run, latest)


def task_tags(run):
    return each_task(run, lambda task: [sorted(task.user_tags), sorted(task.parent.user_tags)])


def logs(run):
    def lines(task):
        return [
            [line for line in neutral(text).splitlines() if "[sandbox]" not in line]
            for text in (task.stdout, task.stderr)
        ]

    return each_task(run, lines)


def times(run):
    """What happened before what."""

    def order(task):
        done = task.finished_at
        return [run.created_at <= task.parent.created_at <= task.created_at, done and task.created_at <= done]

    return each_task(run, order)


def relatives(run):
    def around(task):
        return [sorted(map(key, task.parent_tasks)), sorted(map(key, task.child_tasks))]

    return each_task(run, around)


def filtered_tasks(run):
    def found(step, field, pattern):
        ask = run._metaflow.metadata.filter_tasks_by_metadata
        paths = ask(*run.path_components, step.id, field, pattern)
        return sorted(key(Task(path)) for path in paths)

    asked = [("foreach-execution-path", pattern) for pattern in (".*", "outer:0.*", "outer:0", ".*0", "b")]
    asked += [("attempt", "1"), ("no_such_field", "x")]
    return {step.id: [attempted(found, step, *question) for question in asked] for step in run}


def origins(run):
    return [neutral(run.origin_pathspec), each_task(run, lambda task: neutral(task.origin_pathspec))]


def flows(run):
    flow = Flow(run.path_components[0])
    good = flow.latest_successful_run
    return [
        sorted(flow.id for flow in Metaflow()),
        len(list(flow)),
        flow.latest_run.successful,
        good is not None,
    ]


def namespaces(run):
    kept, answers = get_namespace(), []
    for name in ("user:tester", "user:somebody", None):
        namespace(name)
        answers.append([attempted(lambda: Run(run.pathspec).id == run.id)])
        answers[-1].append(attempted(lambda: len(list(Flow(run.path_components[0])))))
    namespace(kept)
    return answers


def unknown(run):
    flow = run.path_components[0]
    paths = [f"{run.pathspec}/start/99999", f"{run.pathspec}/start/99999/x"]
    asked = [(Flow, "NoSuchFlow"), (Run, f"{flow}/1"), (Step, f"{run.pathspec}/nowhere")]
    asked += [(Task, paths[0]), (DataArtifact, paths[1])]
    return [attempted(kind, path) for kind, path in asked]


def changed_tags(run):
    """Asked last of all: it changes the run, and the local provider its time, too."""

    def after(change, *tags):
        getattr(run, change)(*tags)
        again = Run(run.pathspec)
        return [sorted(run.user_tags), sorted(again.user_tags), sorted(next(iter(again)).user_tags)]

    system = sorted(tag for tag in run.system_tags if tag.startswith("metaflow_version"))
    return [
        attempted(after, "add_tag", "new"),
        attempted(after, "add_tags", ["new", "other"]),
        attempted(after, "replace_tag", "new", "newer"),
        attempted(after, "remove_tag", "never there"),
        attempted(after, "remove_tags", ["other", "newer"]),
        attempted(after, "add_tags", system),
        [attempted(after, "remove_tags", system)],
        attempted(after, "add_tags", [f"tag {number}" for number in range(60)]),
        attempted(after, "remove_tags", run.user_tags - {"first", "second"}),
    ]


QUESTIONS = (
    run_facts, run_data, run_tags, tasks, task_facts, artifact_by_name, artifact_by_path, artifact_absent,
    artifact_lists, artifact_list_with_private, attempts, metadata, latest_metadata, task_tags, logs, times,
    relatives, filtered_tasks, origins, flows, namespaces, unknown,
)  # fmt: skip
CHANGES = (changed_tags,)


def exact(run):
    """Everything about a run as it is, ids and times included."""

    def kept(record):
        # A heart's last beat is the service's own.
        return {name: value for name, value in record._object.items() if name != "last_heartbeat_ts"}

    told = {"run": kept(run)}
    for step in run:
        told[step.id] = kept(step)
        for task in step:
            told[task.pathspec] = kept(task)
            for number in (None, 0, 1):
                ask, path = task._metaflow.metadata.get_object, task.path_components
                found = ask("task", "artifact", None, number, *path)
                told[f"{task.pathspec} artifacts {number}"] = sorted(found, key=lambda entry: entry["name"])
                found = ask("task", "metadata", None, number, *path)
                told[f"{task.pathspec} metadata {number}"] = sorted(
                    found, key=lambda entry: str(sorted(entry.items()))
                )
    return told


if __name__ == "__main__":
    namespace(None)
    pathspec, wanted = sys.argv[1:]
    run = Run(pathspec)
    if wanted == "exact":
        print(json.dumps(exact(run), sort_keys=True))
    else:
        asked = CHANGES if wanted == "changes" else QUESTIONS
        print(json.dumps({question.__name__: attempted(question, run) for question in asked}))
