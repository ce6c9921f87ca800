"""The license's sequence number never goes back, on any server (R10, R19).

That it is equal everywhere in the end, on disk too, is for `settling`.
"""

from __future__ import annotations

from simulation.checkers.entry import Entry


class LicenseOrder:
    """Remembers each server's last number, and the text that goes with each number."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def check(self, entry: Entry) -> str:
        """After each entry."""
        license = entry.state.license
        before = self._last.get(entry.server, 0)
        self._last[entry.server] = license.sequence
        if license.sequence < before and not entry.newest:
            # One that starts anew applies its log again, from a snapshot or the beginning.
            return ""
        if license.sequence < before:
            return f"{entry.server} goes back from license {before} to {license.sequence}"
        if self._texts.setdefault(license.sequence, license.text) != license.text:
            return f"{entry.server} has another text under license {license.sequence}"
        return ""
