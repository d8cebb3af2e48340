"""An image is looked for again while the engine itself fails, as Podman does under another process's pull."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import StartFailed

pytest.importorskip("docker")

import requests
from docker import APIClient

from metaflow_extensions.sandbox.backends.docker import images
from metaflow_extensions.sandbox.backends.docker.engine import Engine

# What Podman 4.3 answered, word for word, to one question in six while another process pulled.
MISREAD = 'failed to convert ImageData to ImageInspect: locating image with ID "7d": image not known'


class Answering(APIClient):  # type: ignore[misc]
    """The SDK's client, with the engine's answers to one question given beforehand."""

    def __init__(self, *codes: int) -> None:
        super().__init__(base_url="http://127.0.0.1:1", version="1.41")
        self.codes = list(codes)

    def get(self, url: str, **_: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code = self.codes.pop(0)
        answer.url = url
        answer._content = json.dumps({"Id": "sha256:7d"} if answer.ok else {"message": MISREAD}).encode()
        return answer


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.time, "sleep", lambda _seconds: None)


def ask(client: Answering) -> Any:
    return images.ensure(Engine(client, client.base_url, True, frozenset()), "an:image", "never", None)


def test_failing_engine_is_asked_again() -> None:
    """Guards steps that start while another process pulls."""
    assert ask(Answering(500, 500, 200))["Id"] == "sha256:7d"


def test_engine_that_keeps_failing_is_told() -> None:
    """Guards against asking for ever."""
    client = Answering(*[500] * 100)
    with pytest.raises(StartFailed, match="image not known"):
        ask(client)
    assert len(client.codes) == 100 - 1 - len(images.ASK_AGAIN)
