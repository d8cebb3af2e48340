import os
import time

from metaflow import FlowSpec, Parameter, step

LARGE = 64 << 20  # bytes
SMALL = 1000


def payload(kind):
    """Fresh content each time: an artifact that is stored already is not stored again."""
    if kind == "compressible":
        return b"".join(b"%d,%d\n" % (number, number * 7919 % 10007) for number in range(1 << 16)) * 120
    return os.urandom(LARGE)


class Artifacts(FlowSpec):
    kind = Parameter("kind", default="incompressible")

    @step
    def start(self):
        if self.kind == "small":
            for number in range(SMALL):
                setattr(self, f"small{number}", (number, os.urandom(32)))
        else:
            self.large = (os.urandom(8) + payload(self.kind))[:LARGE]
            assert len(self.large) == LARGE
        print(f"BENCHMARK saving at {time.time()}")
        self.next(self.end)

    @step
    def end(self):
        begin = time.perf_counter()
        names = [f"small{number}" for number in range(SMALL)] if self.kind == "small" else ["large"]
        values = [getattr(self, name) for name in names]
        print(f"BENCHMARK loaded in {time.perf_counter() - begin}")
        assert all(values)
        for name in names:
            delattr(self, name)


if __name__ == "__main__":
    Artifacts()
