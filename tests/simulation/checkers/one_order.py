"""Committed commands take effect in one order everywhere: equal states at equal indexes.

That the engines apply equal entries is for Raft's own checker; this one is about what the
servers make of them, byte for byte.
"""

from __future__ import annotations

import hashlib

from licraft.core.codec import encode_state
from simulation.checkers.entry import Entry


class OneOrder:
    """Compares the servers' states by their digests."""

    def __init__(self) -> None:
        self._digests: dict[int, tuple[str, str]] = {}

    def check(self, entry: Entry) -> str:
        """After one entry of many: states differ for good."""
        if not entry.whole:
            return ""
        digest = hashlib.sha256(encode_state(entry.state)).hexdigest()
        other, theirs = self._digests.setdefault(entry.index, (entry.server, digest))
        return "" if theirs == digest else f"{entry.server} and {other} differ"
