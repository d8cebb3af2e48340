"""A box from its image to its first breath, and away again when that fails."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boxlite import BoxliteError, BoxOptions

from ...errors import CommandTimeout, StartFailed
from ..local_state import LocalState
from . import failures
from .runtime import ANSWER, Runtime

PULL = 3600.0  # seconds
BOOT = 180.0  # seconds; the SDK gives up before
TELL_EVERY = 5.0  # seconds between two lines of progress


def boot(found: Runtime, options: BoxOptions, name: str) -> tuple[Any, int | None]:
    """A box that runs, and the pid of its machine. Raises UnsupportedOption, StartFailed or QuotaExceeded."""
    image = str(options.image or options.rootfs_path)
    try:
        box = found.calls.call(lambda: found.sdk.create(options, name=name), ANSWER)
        # A server pulls the image meanwhile.
        found.calls.call(lambda: box.start(), BOOT if found.home else PULL)
        info = found.calls.call(lambda: box.info(), ANSWER)
    except CommandTimeout as error:
        raise StartFailed(f"the virtual machine does not start: {error}") from error
    except BoxliteError as error:
        raise failures.of_start(image, error, _directory(found, name), found.home) from error
    return box, info.state.pid


def undo(found: Runtime, base: Path, name: str) -> str | None:
    """Remove what a box that failed to start keeps: its row, its directory, and what is remembered here.

    Why that failed, None when it did not.
    """
    state = LocalState.find(base, name)
    if state:
        state.destroy()
    try:
        found.remove(name)
    except (BoxliteError, CommandTimeout) as error:
        return f"the box {name} {found} can't be removed ({error}): boxlite rm --force {name}"
    return None


def pull(found: Runtime, image: str, tell: Callable[[str], None]) -> None:
    """Have the image here; the runtime would pull it without a word while it starts the box.

    Raises UnsupportedOption when it does not exist or is denied, StartFailed when its registry fails.
    """
    begin = time.monotonic()
    try:
        if image in found.calls.call(lambda: _kept(found), ANSWER):
            return
        tell(f"pulling the image {image}")
        task = found.calls.start(lambda: found.sdk.images.pull(image))
        while True:
            try:
                task.result(TELL_EVERY)
                break
            except concurrent.futures.TimeoutError:
                passed = time.monotonic() - begin
                if passed > PULL:
                    task.cancel()
                    raise StartFailed(f"the image {image!r} can't be pulled within {PULL:g} s") from None
                tell(f"pulling the image {image}: {passed:.0f} s")
    except CommandTimeout as error:
        raise StartFailed(f"the image {image!r} can't be pulled: {error}") from error
    except BoxliteError as error:
        raise failures.COMPLAINTS.refusal(image, str(error)) from error
    tell(f"pulled the image {image} in {time.monotonic() - begin:.0f} s")


async def _kept(found: Runtime) -> set[str]:
    references = {info.reference for info in await found.sdk.images.list()}
    return references | {
        reference.removeprefix("docker.io/").removeprefix("library/") for reference in references
    }


def _directory(found: Runtime, name: str) -> Path | None:
    """Of a box that failed, with its logs."""
    if not found.home:
        return None
    info = found.calls.call(lambda: found.sdk.get_info(name), ANSWER)
    return found.home / "boxes" / str(info.id) if info else None
