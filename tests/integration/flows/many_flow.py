"""A thousand small artifacts, all changed by the second step."""

from metaflow import FlowSpec, step

NUMBER = 1000


class ManyFlow(FlowSpec):
    @step
    def start(self):
        for number in range(NUMBER):
            setattr(self, f"a{number}", {"number": number, "text": str(number) * 10})
        self.next(self.end)

    @step
    def end(self):
        for number in range(NUMBER):
            setattr(self, f"a{number}", getattr(self, f"a{number}")["number"] + 1)


if __name__ == "__main__":
    ManyFlow()
