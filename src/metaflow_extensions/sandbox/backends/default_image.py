"""The image of a step that names none: a small one with the launcher's Python."""

from __future__ import annotations

import sys

DEFAULT_IMAGE = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
