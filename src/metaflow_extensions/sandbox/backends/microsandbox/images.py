"""Images: references to registries, and archives of this machine's."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from microsandbox import Image, ImageNotFoundError, MicrosandboxError, PullEventType

from ...errors import QuotaExceeded, SandboxError, UnsupportedOption
from ..image_refusal import Complaints
from .place import Place

POLICIES = {"missing": "IF_MISSING", "always": "ALWAYS", "never": "NEVER"}
TELL_EVERY = 5.0  # seconds between two lines of progress
LOADED = "metaflow-sandbox.local/archive"  # the repository of images from archives
MIB = 1 << 20

COMPLAINTS = Complaints(
    denied=("not authorized", "unauthorized", "denied", "forbidden"),
    absent=("not found", "manifest unknown", "name unknown", "invalid image reference", "not cached"),
    login="msb registry login",
)
# Not a port's digits.
TOO_MANY = re.compile(r"(?<![\d:])429\b|too many requests|quota|rate limit|insufficient.capacity")


def is_archive(image: str) -> bool:
    """Whether it names a file of this machine, rather than an image in a registry."""
    return image.startswith(("/", "./", "../", "~"))


async def reference(place: Place, image: str, tell: Callable[[str], None]) -> str:
    """The image's reference; an archive is loaded first, once as long as it does not change.

    Raises UnsupportedOption for an archive that is not there or can't be read, or for one in a cloud.
    """
    if not is_archive(image):
        return image
    path = Path(image).expanduser().absolute()
    if place.url:
        raise UnsupportedOption(
            f"image={image!r} is a file of this machine: push it to a registry of the cloud's"
        )
    if not path.is_file():
        raise UnsupportedOption(f"image={image!r} is no archive: make one with docker save or msb save")
    found = path.stat()
    identity = f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}"
    tag = f"{LOADED}:{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
    try:
        await Image.get(tag)
    except ImageNotFoundError:
        pass
    except MicrosandboxError as error:
        if "not found" not in str(error).lower():
            raise
    else:
        return tag
    tell(f"loading the image of {path}")
    try:
        await Image.load(str(path), tag=tag)
    except (MicrosandboxError, ValueError) as error:
        raise UnsupportedOption(f"image={image!r} can't be loaded: {error}") from error
    return tag


class Progress:
    """Says how a pull goes: at its beginning, sometimes in between, and at its end."""

    def __init__(self, image: str, tell: Callable[[str], None]) -> None:
        self._image = image
        self._tell = tell
        self._begin = self._told = time.monotonic()
        self._layers: dict[int, int] = {}
        self._total = 0

    def hear(self, event: Any) -> None:
        """One event of the SDK's."""
        kind = event.event_type
        if kind == PullEventType.RESOLVED:
            self._total = event.total_download_bytes or 0
        elif kind == PullEventType.LAYER_DOWNLOAD_PROGRESS:
            if not self._layers:
                self._tell(f"pulling the image {self._image} ({self._total // MIB} MiB)")
            self._layers[event.layer_index] = event.downloaded_bytes or 0
            if time.monotonic() - self._told > TELL_EVERY:
                self._told = time.monotonic()
                done = sum(self._layers.values())
                self._tell(f"pulling the image {self._image}: {done // MIB} of {self._total // MIB} MiB")
        elif kind == PullEventType.COMPLETE and self._layers:
            self._tell(f"pulled the image {self._image} in {time.monotonic() - self._begin:.0f} s")


def refusal(error: Exception, image: str) -> SandboxError | None:
    """What it means that no sandbox was made, where the reason is not the sandbox itself.

    The SDK has one class for all failures of images: its words are all there is.
    """
    said = str(error)
    words = said.lower()
    if TOO_MANY.search(words):
        return QuotaExceeded(f"microsandbox makes no more sandboxes for now: {said}")
    if any(word in words for word in ("image", "registry", "manifest", *COMPLAINTS.denied)):
        return COMPLAINTS.refusal(image, said)
    return None
