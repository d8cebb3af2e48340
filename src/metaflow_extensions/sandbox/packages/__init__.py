"""Packages for sandboxed steps: resolved to a lock, fetched by the launcher, kept as environments."""
