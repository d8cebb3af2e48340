"""Where Metaflow and its extensions are: what a sandbox without the launcher's environment is given of it."""

from __future__ import annotations

from pathlib import Path

import metaflow
from metaflow import extension_support

import metaflow_extensions

EXTENSIONS = "metaflow_extensions"


def libraries() -> dict[str, str]:
    """Directory on the launcher by its name below a directory of the search path.

    As in a code package: Metaflow, and of its extensions what stands below ``metaflow_extensions``.
    """
    found = {"metaflow": str(Path(metaflow.__file__).resolve().parent)}
    packages = getattr(extension_support, "_all_packages", {}).values()
    roots = [*metaflow_extensions.__path__, *(root for package in packages for root in package["root_paths"])]
    for root in map(Path, dict.fromkeys(roots)):
        # An editable installation names a hook here, and its directories by way of Metaflow's own list.
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if folder.is_dir() and folder.name != "__pycache__":
                    found.setdefault(f"{EXTENSIONS}/{folder.name}", str(folder.resolve()))
    return found
