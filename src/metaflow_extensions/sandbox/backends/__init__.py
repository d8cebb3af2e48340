"""Providers of sandboxes: the interface, the registry, and what local ones share."""
