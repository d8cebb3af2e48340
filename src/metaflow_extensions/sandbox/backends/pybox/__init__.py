"""Containers of pybox, each one foreground run of its command line.

``backend`` translates the interface, ``sandbox`` and ``process`` are what runs, ``loader`` is the first
program inside, ``program`` finds and words pybox, ``leftovers`` ends what a killed launcher leaves.
"""
