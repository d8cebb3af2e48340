"""The embedded default: ``backend.py`` translates the interface, the others are its parts.

A command's way: ``sandbox`` asks ``profile`` what it may see (``entries``, ``system``, ``targets``) and
who it is (``identity``), ``launch`` starts one bwrap and holds it until its ``limits`` are set,
``process`` reads what it writes and how it ends, and ``leftovers`` ends what a killed
launcher leaves.
``binary`` finds bwrap; ``diagnosis`` says why there is none that works.
"""
