"""A step that may use a value and not see it."""

import os

from metaflow import FlowSpec, microsandbox, step


class PlaceholderFlow(FlowSpec):
    @microsandbox(network=["api.example.org"], secrets={"API_TOKEN": ["api.example.org"]})
    @step
    def start(self):
        self.token = os.environ["API_TOKEN"]
        self.next(self.end)

    @step
    def end(self):
        print("placeholder", self.token)


if __name__ == "__main__":
    PlaceholderFlow()
