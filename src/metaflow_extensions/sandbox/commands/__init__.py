"""What a user sees and ends of the sandboxes: ``metaflow-sandbox …`` and ``python flow.py sandbox …``.

Each command is a module with ``add_arguments(parser)`` and ``main(options) -> int``, its exit code.
"""
