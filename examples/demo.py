"""A flow whose every step runs in a sandbox: a foreach, a join, a retried step, and a prying one."""

import socket
from pathlib import Path

from metaflow import FlowSpec, Parameter, card, current, retry, sandbox, step

IN_THE_HOME = (".ssh", ".aws", ".netrc", ".bashrc", ".profile", ".gitconfig", ".metaflowconfig")
ELSEWHERE = {"the host's passwords": "/etc/shadow", "the Docker socket": "/var/run/docker.sock"}


class DemoFlow(FlowSpec):
    """Squares numbers, eight sandboxes at once, then looks for a way out of one."""

    home = Parameter("home", help="The home directory to pry into", default=str(Path.home()))

    @sandbox
    @step
    def start(self):
        """Name the numbers to square."""
        self.numbers = list(range(8))
        self.next(self.square, foreach="numbers")

    @sandbox
    @step
    def square(self):
        """Square one number, in a sandbox of its own."""
        self.result = self.input**2
        self.next(self.join)

    @sandbox
    @step
    def join(self, inputs):
        """Add up what the sandboxes found."""
        self.total = sum(branch.result for branch in inputs)
        self.next(self.flaky)

    @retry(times=1, minutes_between_retries=0)
    @sandbox
    @step
    def flaky(self):
        """Fail once: Metaflow's @retry works as it always does."""
        self.attempt = current.retry_count
        if self.attempt == 0:
            raise RuntimeError("failing once, on purpose: the next attempt goes through")
        self.next(self.pry)

    @card
    @sandbox
    @step
    def pry(self):
        """Try to read the home directory and to reach the network, and report what was out of reach."""
        places = {f"{self.home}/{name}": f"{self.home}/{name}" for name in IN_THE_HOME} | ELSEWHERE
        self.within_reach = [name for name, path in places.items() if reachable(path)]
        self.out_of_reach = [name for name in places if name not in self.within_reach]
        try:
            socket.create_connection(("1.1.1.1", 53), timeout=2).close()
            self.within_reach.append("the network")
        except OSError as error:
            self.out_of_reach.append(f"the network ({error.strerror})")
        print("Out of reach:", ", ".join(self.out_of_reach))
        print("Within reach:", ", ".join(self.within_reach) or "nothing of the above")
        self.next(self.end)

    @sandbox
    @step
    def end(self):
        """Say what came out."""
        print(f"The squares add up to {self.total}.")


def reachable(path):
    """Whether anything can be seen at a path."""
    try:
        return Path(path).exists()
    except PermissionError:
        return False


if __name__ == "__main__":
    DemoFlow()
