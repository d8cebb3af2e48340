"""The relay clients of this process, and their refusals as Metaflow exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from metaflow.exception import MetaflowException

from ...guest.client import RelayClient, RelayRefused

client = RelayClient()
# What is asked while many objects are on their way is answered before they are all stored.
questions = RelayClient()


class RelayException(MetaflowException):
    """The launcher refused or failed."""

    headline = "Sandbox relay"


@contextmanager
def metaflow_errors() -> Iterator[None]:
    """Turn refusals into exceptions that Metaflow shows without a traceback of its own."""
    try:
        yield
    except RelayRefused as error:
        raise RelayException(str(error)) from error
