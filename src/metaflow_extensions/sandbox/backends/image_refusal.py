"""Why an image can't be had: the user's to mend, or its registry's. Engines pass on words and no codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import SandboxError, StartFailed, UnsupportedOption


@dataclass(frozen=True)
class Complaints:
    """Words of one engine for each kind of refusal, in lower case; numbers count where they stand alone."""

    denied: Sequence[str]
    absent: Sequence[str]
    malformed: Sequence[str] = ()
    login: str = "docker login or podman login"

    def refusal(self, image: str, reason: str) -> SandboxError:
        """UnsupportedOption where another try would fail as well, else StartFailed."""
        said = " ".join(reason.split())
        if _holds(said, image, self.denied):
            return UnsupportedOption(
                f"the registry denies the image {image!r} ({said}): log in with {self.login}, or correct "
                "image="
            )
        if _holds(said, image, self.absent):
            return UnsupportedOption(f"there is no image {image!r} ({said}): correct image=")
        if _holds(said, image, self.malformed):
            return UnsupportedOption(f"{image!r} names no image ({said}): correct image=")
        return StartFailed(f"the image {image!r} can't be pulled: {said}")


def _holds(said: str, image: str, words: Sequence[str]) -> bool:
    """Whether it is said, and not only a part of the image's own name, a port or a digest."""
    repository = re.sub(r"(:[^:/]*|@.*)$", "", image)
    plain = said.lower()
    for name in (image.lower(), repository.lower()):
        plain = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", plain)
    return any(
        re.search(rf"(?<![\w:]){word}(?!\w)", plain) if word.isdigit() else word in plain for word in words
    )
