from metaflow import FlowSpec, Step, current, sandbox, step


class RelativesFlow(FlowSpec):
    @step
    def start(self):
        self.numbers = [1, 2]
        self.next(self.body, foreach="numbers")

    @step
    def body(self):
        self.next(self.join)

    @sandbox
    @step
    def join(self, inputs):
        bodies = Step(f"{current.flow_name}/{current.run_id}/body").tasks()
        parents = [parent.path_components[2] for body in bodies for parent in body.parent_tasks]
        print("parents of the tasks before:", parents)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    RelativesFlow()
