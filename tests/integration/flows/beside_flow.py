"""A module beside a flow, which its code package has to bring along."""

from dataclasses import dataclass


@dataclass
class Point:
    """An artifact of a class of the flow's own."""

    x: int
    y: int
