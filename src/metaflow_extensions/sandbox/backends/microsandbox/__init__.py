"""Virtual machines of microsandbox, on this machine or in a cloud, through its SDK.

``backend`` translates the interface; ``place`` says where sandboxes are made, ``images`` and ``network``
what they are made of, ``creation`` makes one. ``sandbox`` and ``process`` are what runs; ``loader`` and
``copying`` run inside. ``leftovers`` removes what is left of a sandbox.
"""
