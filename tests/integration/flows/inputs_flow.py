"""What a step is given: parameters, included files, configurations, its own module, and `current`."""

import os

from beside_flow import Point
from metaflow import (
    Config,
    FlowSpec,
    IncludeFile,
    JSONType,
    Parameter,
    config_expr,
    current,
    environment,
    project,
    step,
)


def keys_and_values(text):
    return dict(line.split("=") for line in text.split())


@project(name="sandbox_tests")
class InputsFlow(FlowSpec):
    count = Parameter("count", default=3, help="A number.")
    ratio = Parameter("ratio", type=float, default=0.5)
    label = Parameter("label", default="plain")
    flag = Parameter("flag", default=False)
    table = Parameter("table", type=JSONType, default='{"k": [1, null]}')
    late = Parameter("made-late", default=lambda context: f"{context.flow_name} of {context.user_name}")
    required = Parameter("required", type=int, required=True)
    text = IncludeFile("text", default="words.txt")
    raw = IncludeFile("raw", is_text=False, default="bytes.bin")
    none = IncludeFile("none")
    config = Config("config", default="settings.json")
    parsed = Config("parsed", default="settings.env", parser=keys_and_values)
    from_config = Parameter("from-config", type=int, default=config_expr("config.numbers[1]"))

    @environment(vars={"FROM_CONFIG": config_expr("config.name")})
    @step
    def start(self):
        self.given = {
            "count": self.count,
            "ratio": self.ratio,
            "label": self.label,
            "flag": self.flag,
            "table": self.table,
            "late": self.late,
            "required": self.required,
            "text": self.text,
            "raw": self.raw,
            "none": self.none,
            "from_config": self.from_config,
            "config": self.config.to_dict(),
            "nested": self.config.nested.deep,
            "parsed": self.parsed["COLOUR"],
            "variable": os.environ["FROM_CONFIG"],
        }
        self.point = Point(1, self.count)
        self.things = ["one", "two"]
        print("given", sorted(self.given))
        self.next(self.look, foreach="things")

    @step
    def look(self):
        self.seen = self.look_around()
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.all_seen = [one.seen for one in inputs]
        self.merge_artifacts(inputs, exclude=["seen"])
        # The Client API from inside: this run, and the artifacts of the tasks before this one.
        self.steps = sorted(step.id for step in current.run)
        self.parents_saw = sorted((task.index, task.data.seen["step_name"]) for task in current.run["look"])
        self.next(self.end)

    @step
    def end(self):
        self.seen = self.look_around()
        print("seen", self.seen["flow_name"], self.seen["step_name"], self.point)

    @staticmethod
    def look_around():
        """`current`, as far as it can agree between two runs."""
        names = [
            "flow_name",
            "run_id",
            "step_name",
            "retry_count",
            "origin_run_id",
            "namespace",
            "username",
            "is_running_flow",
            "project_name",
            "branch_name",
            "project_flow_name",
            "is_production",
            "is_user_branch",
            "trigger",
        ]
        seen = {name: current.get(name) for name in names}
        seen["tags"] = sorted(current.tags)
        seen["graph"] = sorted(current.graph["steps"])
        seen["pathspec"] = (
            current.pathspec == f"{current.flow_name}/{current.run_id}/{current.step_name}/{current.task_id}"
        )
        seen["task"] = current.task.pathspec == current.pathspec
        seen["run"] = current.run.pathspec == f"{current.flow_name}/{current.run_id}"
        seen["unknown"] = "no_such_thing" in current
        seen["names"] = names
        return seen


if __name__ == "__main__":
    InputsFlow()
