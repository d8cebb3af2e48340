"""Evaluate an agent on many tasks at once: each episode, and the tools that its model calls, in a sandbox."""

import json
import subprocess
import sys

from metaflow import FlowSpec, Parameter, sandbox, step

TASKS = [
    {"question": "What is 17 * 23?", "answer": "391"},
    {"question": "What is 2 ** 10?", "answer": "1024"},
    {"question": "Who is root here?", "answer": "out of reach"},
    {"question": "What is 1 / 0?", "answer": "ZeroDivisionError"},
]


def model(question):
    """Stand in for a language model: the code that it would have the agent's tool run."""
    if question.startswith("What is"):
        return f"print({question.removeprefix('What is ').rstrip('?')})"
    return "print(open('/etc/shadow').readline().split(':')[0])"


def python_tool(code):
    """Run a model's code as it is: the sandbox is what keeps it in."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    if done.returncode == 0:
        return done.stdout.strip()
    error = done.stderr.strip().splitlines()[-1].partition(":")[0]
    return "out of reach" if error in ("PermissionError", "FileNotFoundError") else error


class AgentEvaluation(FlowSpec):
    """A fan-out over tasks; what an episode does stays in its sandbox."""

    repeats = Parameter("repeats", help="Episodes of each task", default=2)

    @step
    def start(self):
        """List the episodes."""
        self.episodes = [(task, number) for task in TASKS for number in range(self.repeats)]
        self.next(self.episode, foreach="episodes")

    @sandbox(memory=1024, timeout=300, isolation="container")
    @step
    def episode(self):
        """One episode: ask the model, run its tool call, judge the answer."""
        self.task, self.number = self.input
        self.said = python_tool(model(self.task["question"]))
        self.passed = self.said == self.task["answer"]
        self.next(self.score)

    @step
    def score(self, inputs):
        """Count."""
        episodes = list(inputs)
        self.total, self.passed = len(episodes), sum(episode.passed for episode in episodes)
        self.failed = [(episode.task["question"], episode.said) for episode in episodes if not episode.passed]
        self.next(self.end)

    @step
    def end(self):
        """Report."""
        print(json.dumps({"passed": self.passed, "of": self.total, "failed": self.failed}))


if __name__ == "__main__":
    AgentEvaluation()
