"""What the SDK's errors mean: told apart by their classes, and for images by what the registry said."""

from __future__ import annotations

from pathlib import Path

from boxlite import BoxliteError, ImageError, ResourceExhaustedError, StorageError

from ...errors import QuotaExceeded, SandboxError, StartFailed
from ..image_refusal import Complaints

COMPLAINTS = Complaints(
    denied=(
        "[unauthorized]",
        "[denied]",
        "authentication failure",
        "not authorized",
        "code: 401",
        "code: 403",
    ),
    absent=("[manifest_unknown]", "[name_unknown]", "[not_found]", "image manifest not found"),
    malformed=("invalid image reference", "oci-layout file", "index.json"),
)
LOGS = ("shim.stderr", "logs/console.log")
KEPT = 400  # characters of each


def of_start(image: str, error: BoxliteError, directory: Path | None, home: Path | None) -> SandboxError:
    """A box that does not start; ``directory`` is its own, ``home`` the runtime's, None on a server."""
    if isinstance(error, ResourceExhaustedError):
        return QuotaExceeded(f"BoxLite has no room for another box: {error}")
    if isinstance(error, ImageError) or (isinstance(error, StorageError) and "image" in str(error).lower()):
        return COMPLAINTS.refusal(image, str(error))
    said = f" Its logs say: {words}" if directory and (words := last_words(directory)) else ""
    where = f"; the runtime's own are in {home / 'logs'}" if home else ""
    return StartFailed(f"the virtual machine does not start: {error}{said}{where}")


def last_words(directory: Path) -> str:
    """The ends of a box's logs, as one paragraph."""
    found = []
    for name in LOGS:
        try:
            text = " ".join((directory / name).read_text(errors="replace").split())
        except FileNotFoundError:
            continue
        if text:
            found.append(f"{Path(name).name}: …{text[-KEPT:]}" if len(text) > KEPT else f"{name}: {text}")
    return "; ".join(found)
