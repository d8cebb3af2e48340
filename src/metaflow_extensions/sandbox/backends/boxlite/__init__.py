"""Virtual machines of BoxLite: ``backend.py`` translates the interface, the others are its parts.

``runtime`` is the SDK's one object of this process: over a home of this machine, from the pool in ``slots``,
or over a server. A ``sandbox`` is a box. In it each command is the child of a loader (``guest/exec_loader.py``):
``attachment`` passes frames to and from it in the loop's thread, ``process`` is what a caller holds.
``failures`` says what the SDK's errors mean, ``registries`` who the user is to a registry, and ``leftovers``
ends what is left of a sandbox.
"""
