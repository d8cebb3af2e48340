"""Containers of a Docker engine or of Podman's service, through the engine's API.

``backend`` translates the interface; ``engine`` finds the engine, ``images`` makes sure of an image,
``profile`` says what a container may do, ``sandbox`` and ``process`` are what runs.
"""
