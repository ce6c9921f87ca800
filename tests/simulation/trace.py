"""What happened in a run, as a story: who, what, when, at which log index.

May import the standard library. Lines are kept only where somebody wants to read them; their
digest always is, and two equal runs have the same.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import fields

LATEST = 60
_UNTOLD = ("client", "nonce", "secret", "key", "members", "threshold", "knows")
_NOTHING = ("", 0, False, None, ())


class Trace:
    """The lines of one run."""

    def __init__(self, *, whole: bool = False) -> None:
        """Without `whole` only the latest lines are kept."""
        self.lines: deque[str] = deque(maxlen=None if whole else LATEST)
        self.now: Callable[[], float] = lambda: 0.0
        self._digest = hashlib.sha256()
        self._ended = False

    def tell(self, who: str, what: str, index: int = 0) -> None:
        """Something happened now."""
        if self._ended:
            return
        at = f" @{index}" if index else ""
        line = f"{self.now():11.4f} s  {who:<10} {what}{at}"
        self.lines.append(line)
        self._digest.update(line.encode())

    def end(self) -> None:
        """What is told from now on is no part of the run: tasks end in any order."""
        self._ended = True

    def digest(self) -> str:
        """A fingerprint of every line so far."""
        return self._digest.hexdigest()[:32]


def in_words(command: object) -> str:
    """A command and what it says, without what is long, secret or as always."""
    told = []
    for part in fields(command):  # type: ignore[arg-type]  # every command is a dataclass
        value = getattr(command, part.name)
        if part.name == "license":
            told.append(f"sequence={value.sequence}")
        elif part.name not in _UNTOLD and value not in _NOTHING:
            told.append(f"{part.name}={value}")
    return f"{type(command).__name__}({', '.join(told)})"
