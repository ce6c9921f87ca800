"""How faults of license files and codes are put: one printable line of bounded length.

May import nothing of licraft. What stands in a file or a code may be hostile: it must not
break a line, colour a terminal or fill a log by way of a message about it.
"""

from __future__ import annotations

import unicodedata

MAX_SHOWN_CHARS = 60
MAX_FAULT_CHARS = 300


def shown(value: object) -> str:
    """A value as it stands in a message: escaped, and cut where it is long."""
    if value is None:
        return "missing"
    if isinstance(value, str):
        value = value[: MAX_SHOWN_CHARS + 1]
    text = repr(value) if not isinstance(value, dict | list) else _collection(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def one_line(text: str) -> str:
    """`text` of others in one printable line, cut where it is long."""
    line = "".join(c if c.isprintable() else "?" for c in text[: MAX_FAULT_CHARS + 1])
    return line if len(line) <= MAX_FAULT_CHARS else f"{line[:MAX_FAULT_CHARS]}..."


def character(symbol: str) -> str:
    """A character for people: itself if it is ASCII, else its number and name too."""
    if symbol.isascii():
        return repr(symbol)
    name = unicodedata.name(symbol, "")
    number = f"U+{ord(symbol):04X}"
    return f"{symbol if symbol.isprintable() else ''} ({number} {name})".replace(" )", ")").strip()


def _collection(value: dict[object, object] | list[object]) -> str:
    # The repr of a whole file can have megabytes, of which sixty characters are shown.
    kind, unit = ("keys", "key") if isinstance(value, dict) else ("a list", "item")
    return f"{kind} ({len(value)} {unit}{'' if len(value) == 1 else 's'})"
