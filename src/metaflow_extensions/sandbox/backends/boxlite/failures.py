"""What the SDK's errors mean: told apart by their classes, and for images by what the registry said."""

from __future__ import annotations

from pathlib import Path

from boxlite import BoxliteError, ImageError, ResourceExhaustedError, StorageError

from ...errors import QuotaExceeded, SandboxError, StartFailed, UnsupportedOption

DENIED = ("[UNAUTHORIZED]", "[DENIED]", "Authentication failure", "Not authorized", "code: 401", "code: 403")
UNKNOWN = ("[MANIFEST_UNKNOWN]", "[NAME_UNKNOWN]", "[NOT_FOUND]", "Image manifest not found")
MALFORMED = ("invalid image reference", "oci-layout file", "index.json")
LOGS = ("shim.stderr", "logs/console.log")
KEPT = 400  # characters of each


def of_image(image: str, error: BoxliteError) -> SandboxError:
    """A pull that failed: the user's to mend, or the registry's."""
    said = " ".join(str(error).split())
    if any(word in said for word in DENIED):
        return UnsupportedOption(
            f"the registry denies the image {image!r} ({said}): log in with docker login or podman login, or "
            "correct image="
        )
    if any(word in said for word in UNKNOWN):
        return UnsupportedOption(f"there is no image {image!r} ({said}): correct image=")
    if any(word in said for word in MALFORMED):
        return UnsupportedOption(
            f"{image!r} is neither a reference nor the path of an OCI layout ({said}): correct image="
        )
    return StartFailed(f"the image {image!r} can't be pulled: {said}")


def of_start(image: str, error: BoxliteError, directory: Path | None, home: Path | None) -> SandboxError:
    """A box that does not start; ``directory`` is its own, ``home`` the runtime's, None on a server."""
    if isinstance(error, ResourceExhaustedError):
        return QuotaExceeded(f"BoxLite has no room for another box: {error}")
    if isinstance(error, ImageError) or (isinstance(error, StorageError) and "image" in str(error).lower()):
        return of_image(image, error)
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
