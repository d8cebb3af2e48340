from metaflow import FlowSpec, sandbox, step


class Waiting(FlowSpec):
    @step
    def start(self):
        self.numbers = list(range(100))
        self.next(self.work, foreach="numbers")

    @sandbox(backend="metaflow_extensions.sandbox.testing.scripted:ScriptedBackend")
    @step
    def work(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        assert inputs
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    Waiting()
