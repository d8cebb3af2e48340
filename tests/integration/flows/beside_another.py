import os
import sys

from metaflow import FlowSpec, other, sandbox, step


class BesideAnother(FlowSpec):
    @sandbox
    @other
    @step
    def start(self):
        assert os.environ["METAFLOW_SANDBOX_GUEST"]
        print(f"sandboxed on {sys.version_info[0]}.{sys.version_info[1]}")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BesideAnother()
