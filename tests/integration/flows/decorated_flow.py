"""Steps under Metaflow's own step decorators, failing where those have to show what they do."""

import os
import time

from metaflow import FlowSpec, catch, current, environment, resources, retry, secrets, step, timeout

INLINE = {"type": "inline", "id": "keys", "options": {"env_vars": {"API_KEY": "s3cr3t", "OTHER": "also"}}}


class DecoratedFlow(FlowSpec):
    @step
    def start(self):
        self.next(
            self.retried, self.caught, self.caught_late, self.fallen_back, self.timed_out, self.provided
        )

    @retry(times=2, minutes_between_retries=0)
    @step
    def retried(self):
        print("attempt", current.retry_count)
        if current.retry_count < 2:
            self.lost = "an artifact of a failed attempt"
            raise ValueError(f"failing attempt {current.retry_count}")
        self.attempts = current.retry_count + 1
        self.next(self.gather)

    @catch(var="failure")
    @step
    def caught(self):
        self.before = "kept"
        raise KeyError("caught")
        self.next(self.gather)

    @catch(var="failure", print_exception=False)
    @retry(times=1, minutes_between_retries=0)
    @step
    def caught_late(self):
        print("attempt", current.retry_count)
        raise RuntimeError(f"caught at attempt {current.retry_count}")
        self.next(self.gather)

    @catch(var="failure")
    @retry(times=1, minutes_between_retries=0)
    @step
    def fallen_back(self):
        print("last words", flush=True)
        os._exit(7)
        self.next(self.gather)

    @catch(var="failure", print_exception=False)
    @timeout(seconds=2)
    @step
    def timed_out(self):
        time.sleep(60)
        self.next(self.gather)

    @environment(vars={"WHO": "someone", "EMPTY": "", "SPACED": "a b=c"})
    @secrets(sources=[INLINE])
    @resources(cpu=1, memory=512)
    @timeout(minutes=1)
    @step
    def provided(self):
        self.variables = {name: os.environ[name] for name in ("WHO", "EMPTY", "SPACED", "API_KEY", "OTHER")}
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.attempts = inputs.retried.attempts
        failed = [one for one in inputs if hasattr(one, "failure")]
        self.failures = dict(sorted((one._current_step, one.failure.type) for one in failed))
        self.next(self.end)

    @step
    def end(self):
        print(self.attempts, self.failures)


if __name__ == "__main__":
    DecoratedFlow()
