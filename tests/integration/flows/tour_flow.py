"""A little of everything that goes through a datastore and a metadata provider."""

# First of all: inside a sandbox nothing may be imported that Python and Metaflow don't bring.
import os
import sys

ALLOWED = {*sys.stdlib_module_names, "metaflow", "metaflow_extensions", "__main__"}


class Refuse:
    """Refuses modules that are neither Python's nor Metaflow's, the optional YAML among them."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"{name} is refused", name=name)


if os.environ.get("METAFLOW_SANDBOX_GUEST"):
    sys.meta_path.insert(0, Refuse())

from metaflow import Config, FlowSpec, IncludeFile, Parameter, card, current, retry, step  # noqa: E402
from metaflow.cards import Markdown  # noqa: E402


class TourFlow(FlowSpec):
    size = Parameter("size", default=2)
    text = IncludeFile("text", default="words.txt")
    raw = IncludeFile("raw", is_text=False, default="bytes.bin")
    config = Config("config", default="settings.json")

    @step
    def start(self):
        guest = "METAFLOW_SANDBOX_GUEST" in os.environ
        self.foreign = sorted({"requests", "boto3", "botocore", "yaml"} & set(sys.modules)) if guest else []
        self.parts = list(range(self.size))
        self.large = bytes(range(256)) * 8192
        self.included = [self.text, self.raw, self.config.name]
        self.next(self.body, foreach="parts")

    @retry(times=1, minutes_between_retries=0)
    @card(type="blank")
    @step
    def body(self):
        print("attempt", current.retry_count, "of", self.input)
        print("to stderr", file=sys.stderr)
        current.card.append(Markdown(f"# The card of part {self.input}"))
        if self.input == 1 and current.retry_count == 0:
            raise ValueError("once")
        self.square = self.input**2
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.merge_artifacts(inputs, exclude=["square"])
        self.squares = [one.square for one in inputs]
        self.others = sorted(task.data.square for task in current.run["body"])
        self.next(self.choose)

    @step
    def choose(self):
        self.way = "on" if sum(self.squares) else "back"
        self.next({"on": self.end, "back": self.choose}, condition="way")

    @step
    def end(self):
        print("squares", self.squares)


if __name__ == "__main__":
    TourFlow()
