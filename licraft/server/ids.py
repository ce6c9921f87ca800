"""Random names for authorizations that their clients did not name.

May import the standard library.
"""

from __future__ import annotations

import os

_BYTES = 16
_AT_ONCE = 256


class Ids:
    """128 random bits each, in hexadecimal; the kernel is asked for many at once."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def next(self) -> str:
        """A name that was never given before."""
        if not self._ready:
            bits = os.urandom(_BYTES * _AT_ONCE).hex()
            self._ready = [bits[i : i + 2 * _BYTES] for i in range(0, len(bits), 2 * _BYTES)]
        return self._ready.pop()
