"""License codes as people paste them: what mail and word processors do is undone.

May import `errors` and `vendor.wording`. Undone is only what cannot mean anything
else, since a code consists of letters, digits, `-`, `_` and dots: white space, line
wraps, the quoting marks of mail, quotation marks around, invisible characters,
and dashes that were hyphens. Must not decide what a code says, or change a
character that a code can contain.
"""

from __future__ import annotations

import re

from licraft.errors import LicenseError
from licraft.vendor.wording import character

PREFIX = "LIC1"

# Soft hyphens, zero-width characters, marks of direction, byte order marks.
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
_HYPHENS = "\u2010-\u2012\u2212\ufe58\ufe63\uff0d"
# Word processors make one of these out of one hyphen, or out of two.
_LONG_DASHES = "\u2013-\u2015"

_DUST = re.compile(rf"[\s{_INVISIBLE}]+")
_HYPHEN = re.compile(f"[{_HYPHENS}]")
_LONG_DASH = re.compile(f"[{_LONG_DASHES}]")
_FOREIGN = re.compile(rf"[^A-Za-z0-9_.\-\s{_INVISIBLE}{_HYPHENS}{_LONG_DASHES}]")
# The quoting marks of mail, and the ends of lines that quoted-printable wrapped.
_MARKS = re.compile(r"(?m:^[^\S\n]*(?:[>|][^\S\n]*)+)|=[^\S\n]*\n")
_BEGINNING = re.compile(rf"(?m)^(?=[^\S\n]*(?:[>|][^\S\n]*)*[\"'\u2018-\u201f]?{PREFIX}\.)")
_QUOTES = "\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a<>|"
_BLANK = " \t\r\n\u00a0\u200b\ufeff"


def readings(text: str) -> tuple[str, ...]:
    """The codes that the pasted `text` can stand for, the likelier first.

    Two, where long dashes stand for one hyphen or for two each. Raises LicenseError
    naming the first character that no code contains, and its place.
    """
    # Marks become as many spaces: places in `text` stay what they are.
    begin = len(text) - len(text.lstrip(_QUOTES + _BLANK))
    bare = " " * begin + text[begin:].rstrip(_QUOTES + _BLANK + ",;")
    bare = _MARKS.sub(lambda marks: " " * len(marks[0]), bare)
    code = _HYPHEN.sub("-", _DUST.sub("", bare))
    if not code.startswith(f"{PREFIX}."):
        raise LicenseError(f"not a license code: {_other_beginning(text)}")
    foreign = _FOREIGN.search(bare)
    if foreign:
        raise LicenseError(
            f"{place(text, foreign.start())} of the license code is {character(foreign[0])}, which"
            " no code contains: was it changed on its way?"
        )
    if code.count(".") == 3:
        code = code.removesuffix(".")  # of the sentence around
    if _LONG_DASH.search(code):
        return _LONG_DASH.sub("-", code), _LONG_DASH.sub("--", code)
    return (code,)


def split_codes(text: str) -> list[str]:
    """The codes in `text`, each from a line that begins one to the next; each may be wrapped.

    What stands before the first is taken for one too, so that nobody overlooks it.
    """
    return [part for part in _BEGINNING.split(text) if part.strip(_QUOTES + _BLANK)]


def long_dash(text: str) -> str:
    """Where the first long dash of the pasted `text` is, and what it is; or nothing."""
    found = _LONG_DASH.search(text)
    if not found:
        return ""
    return f"{place(text, found.start())} of the license code is {character(found[0])}"


def _other_beginning(text: str) -> str:
    found = text.find(f"{PREFIX}.")
    begin = text.lstrip(_QUOTES + _BLANK)[: len(PREFIX) + 1]
    if found < 0 and begin.upper() == f"{PREFIX}.":
        return f"it begins with {begin!r}, not `{PREFIX}.`: small letters and capitals differ"
    where = f"; what follows from {place(text, found)} may be one: give that alone"
    return f"it does not begin with `{PREFIX}.`{where if found > 0 else ''}"


def place(text: str, index: int) -> str:
    """The place of a character of the pasted `text`, for people."""
    before = text[:index]
    if "\n" not in text.strip():
        return f"character {len(before.lstrip()) + 1}"
    return f"character {index - before.rfind(chr(10))} of line {before.count(chr(10)) + 1}"
