"""Run somebody's code on your data: it gets the data and nothing else, and hands back plain text."""

from metaflow import FlowSpec, Parameter, sandbox, step

SUBMISSION = """
import os, pathlib, socket

def solve(numbers):
    loot = {}
    loot["home"] = sorted(os.listdir(HOME)) if os.path.isdir(HOME) else []
    loot["keys"] = sorted(name for name in os.environ if "SECRET" in name or "TOKEN" in name)
    try:
        socket.create_connection(("1.1.1.1", 53), timeout=2).close()
        loot["network"] = True
    except OSError:
        loot["network"] = False
    return sum(numbers), loot
"""


class UntrustedCode(FlowSpec):
    """The submission does what it was asked for, and looks around while it is there."""

    home = Parameter("home", help="The directory that the submission looks into", default="/root")

    @step
    def start(self):
        """Take the submission in; reading it is not running it."""
        self.submission, self.numbers = SUBMISSION, [3, 1, 4, 1, 5, 9]
        self.next(self.judge)

    @sandbox(memory=1024, timeout=60, network="none", isolation="container")
    @step
    def judge(self):
        """Run it. Results are made text here: a later step need not unpickle what a stranger made."""
        names = {"HOME": self.home}
        exec(self.submission, names)
        answer, loot = names["solve"](self.numbers)
        self.answer, self.loot = str(answer), {name: str(value) for name, value in loot.items()}
        self.next(self.end)

    @step
    def end(self):
        """Report."""
        print("answer", self.answer)
        for what, found in sorted(self.loot.items()):
            print("found", what, found)


if __name__ == "__main__":
    UntrustedCode()
