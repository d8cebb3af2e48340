"""The first process in a sandbox: put the code in place, start the step, report how it ended.

Started as ``python -I -S bootstrap.py CODE -- COMMAND…`` in the sandbox's working directory.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # -I and -S keep the search path bare: name the one directory that we import from.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from guest.run import main

    # Skip the teardown of the interpreter: nothing is left to save.
    os._exit(main(sys.argv[1:]))
