"""Metaflow's providers inside a sandbox: each asks the relay, none has credentials or a network."""
