"""Containers without an engine, by the nitrobox library.

``backend`` translates the interface, ``sandbox`` and ``process`` are what runs, ``loader`` is the first
program inside, and ``leftovers`` ends what a killed launcher leaves.
"""
