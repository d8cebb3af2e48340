"""A step asks for secrets that it declares, and for others."""

import os

from metaflow import FlowSpec, secrets, step
from metaflow.exception import MetaflowException
from metaflow.plugins.secrets.secrets_func import get_secret


def inline(name, **variables):
    """A source that needs no service."""
    return {"type": "inline", "id": name, "options": {"env_vars": variables}}


def ask_for(source):
    """The secret's values, or why there are none."""
    try:
        return get_secret(source)
    except MetaflowException as error:
        return str(error)


class SecretsFlow(FlowSpec):
    @secrets(sources=[inline("one", ONE="first"), inline("two", TWO="second")])
    @step
    def start(self):
        self.variables = (os.environ["ONE"], os.environ["TWO"])
        self.declared = ask_for(inline("two", TWO="second"))
        self.renamed = ask_for(inline("three", TWO="second"))
        self.changed = ask_for(inline("two", TWO="another"))
        self.next(self.end)

    @step
    def end(self):
        self.undeclared = ask_for(inline("one", ONE="first"))
        self.left_over = "ONE" in os.environ


if __name__ == "__main__":
    SecretsFlow()
