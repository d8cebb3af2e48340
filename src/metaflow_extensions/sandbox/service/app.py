"""The whole service: our routes before those of metaflow-local-service, which has some for Metaflow's UI."""

from __future__ import annotations

from pathlib import Path

from metaflow_local_service import server as upstream
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .gate import Gate
from .records import Records
from .refusals import Refusal, of_disk
from .routes import Routes


def build(root: Path, instance: str) -> Gate:
    """The application over ROOT/.metaflow. Raises OSError where that cannot be made."""
    records = Records(root)
    app = upstream.create_app(str(root))
    app.router.routes[:0] = Routes(records, instance).all()
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(OSError, refused)
    return Gate(app)


async def refused(_: Request, error: Exception) -> Response:
    """The answer that tells Metaflow's user why."""
    refusal = of_disk(error) if isinstance(error, OSError) else error
    return PlainTextResponse(str(refusal), refusal.status if isinstance(refusal, Refusal) else 500)
