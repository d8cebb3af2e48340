"""The one contract that every backend passes; subclass it in your tests and give it your backend.

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self) -> Backend:
            return MyBackend()

Class data says where a backend differs (``python``, ``patience``, ``adds_env``, ``keeps``, ``watched``,
``known_failures``; see ``parts/base.py``), and ``make_spec`` what it needs to open a sandbox, such as an
image. What a backend can do is read from its ``features``: declared ones are tried, undeclared ones must
be refused. After each test nothing may be left: no process, mount, file, descriptor or thread.

Some tests build a second backend by ``type(backend)()``, and in another process by its import path: make
configuration reach it through the environment, as users do.
"""

from __future__ import annotations

import pytest

# Before the chapters are imported, so that their failures show values.
pytest.register_assert_rewrite("metaflow_extensions.sandbox.testing.parts")

from .parts.base import ContractBase, Result, host_python  # noqa: E402
from .parts.commands import CommandsContract  # noqa: E402
from .parts.endings import EndingsContract  # noqa: E402
from .parts.files import FilesContract  # noqa: E402
from .parts.inputs import InputsContract  # noqa: E402
from .parts.limits import LimitsContract  # noqa: E402
from .parts.lives import LivesContract  # noqa: E402
from .parts.streams import StreamsContract  # noqa: E402
from .parts.trees import TreesContract  # noqa: E402
from .parts.walls import WallsContract  # noqa: E402

__all__ = ["BackendContract", "ContractBase", "Result", "host_python"]


class BackendContract(
    StreamsContract,
    EndingsContract,
    TreesContract,
    CommandsContract,
    InputsContract,
    FilesContract,
    WallsContract,
    LimitsContract,
    LivesContract,
):
    """All chapters."""
