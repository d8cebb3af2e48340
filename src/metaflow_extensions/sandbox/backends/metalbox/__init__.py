"""Services of MetalBox on macOS: ``backend.py`` translates the interface, the others are its parts.

``sandbox`` runs one ``server`` of its own with a configuration of its own. For each command it writes
a ``service``, whose program is ``runner``: it starts the command on named pipes and stays beside it.
``process`` reads those ``pipes``, and the exit code from the server's events. ``leftovers`` ends what
is left of a sandbox; ``options`` are those of backend_options, ``metal_caps`` go into the step.
"""
