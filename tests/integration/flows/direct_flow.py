"""What a step in direct mode does with the bucket, through Metaflow and by itself."""

import os

from metaflow import FlowSpec, IncludeFile, Task, card, current, step
from metaflow.cards import Markdown


class DirectFlow(FlowSpec):
    text = IncludeFile("text", default="words.txt")

    @step
    def start(self):
        self.parts = [0, 1]
        self.next(self.body, foreach="parts")

    @card(type="blank")
    @step
    def body(self):
        current.card.append(Markdown("# This is the card"))
        self.part = self.input
        # More than Metaflow writes one by one.
        for number in range(30):
            setattr(self, f"many_{number}", [self.input, number])
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.found = [one.part for one in inputs]
        self.total = sum(getattr(one, f"many_{number}")[0] * 10 for one in inputs for number in range(30))
        self.next(self.end)

    @step
    def end(self):
        self.seen = [self.text, self.found, self.total]
        me = Task(current.pathspec)
        fields = {entry.name for entry in me.metadata}
        self.known = [*(task.path_components[2] for task in current.run["body"]), "attempt" in fields]
        self.keys_in_environment = sorted(name for name in os.environ if "SECRET" in name or "TOKEN" in name)
        import boto3

        self.key = boto3.Session().get_credentials().access_key
        client = boto3.client("s3", endpoint_url=os.environ["METAFLOW_S3_ENDPOINT_URL"])
        bucket, _, prefix = os.environ["METAFLOW_DATASTORE_SYSROOT_S3"].partition("://")[2].partition("/")
        answer = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/DirectFlow/")
        self.own_boto3_lists = answer["KeyCount"] > 0


if __name__ == "__main__":
    DirectFlow()
