"""Virtual machines of BoxLite: ``backend.py`` translates the interface, the others are its parts.

``runtime`` is the SDK's one object of this process: over a home of this machine, from the pool in ``slots``,
or over a server. ``machine`` says what a sandbox asks for, and ``boot`` makes it run. A ``sandbox`` is such a
box. In it each command is the child of a loader (``guest/exec_loader.py``): ``attachment`` passes frames, in
the loop's thread, for ``loaded_process``, and files go the same way. ``failures`` says what the SDK's errors
mean, ``registries`` who the user is to a registry, ``leftovers`` ends what is left.
"""
