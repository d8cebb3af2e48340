"""Sandboxes of E2B: ``backend.py`` translates the interface, the others are its parts.

``templates`` builds what a step asks for, once; ``creation`` makes a sandbox of it, with the name and
labels of ``account``, and looks after one whose creation nobody can tell; ``sandbox`` keeps it alive.
Each command is the child of a loader inside (``guest/exec_loader.py``), on which a ``link`` holds when
streams break: frames go through its ``inlet``, and come out of its ``lines``. ``files`` copies,
``leftovers`` ends what is left, ``failures`` says what the SDK's errors mean.
"""
