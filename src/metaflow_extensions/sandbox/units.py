"""Lengths of time, amounts of memory and foreign text, as people can read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A length of time in the two units that matter: 12 ms, 3.2 s, 4m05s, 2h10m, 3d04h."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, lower, below in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below:02}{lower}"
    raise AssertionError("unreachable")


def mebibytes(amount: float) -> str:
    """An amount of memory: 512 MiB, 1 GiB, 1.5 GiB."""
    return f"{amount:.0f} MiB" if amount < 1024 else f"{amount / 1024:.3g} GiB"


def count(number: int, what: str) -> str:
    """So many of something: 1 task, 2 tasks."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def on_one_line(text: str) -> str:
    """Without line breaks, and with control characters made visible; it may be a guest's or a provider's."""
    plain = " ".join(text.split())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in plain)
