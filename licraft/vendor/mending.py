"""Where a license code was altered, if it was in one place: found by trying.

May import `errors` and this room. A signature says that something was changed, not
what. But a code that was typed from paper, or damaged by a machine, is usually one
step from what was signed, and there are few such steps. Takes seconds: for people
who ask, never for a server. Gives nothing away: a forger would have to guess what a
vendor signed but for one character.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_letters, digits

from licraft.errors import LicenseError
from licraft.vendor.codes import decode_part, read_code
from licraft.vendor.keys import VendorPublicKey
from licraft.vendor.paste import PREFIX

_SYMBOLS = f"{ascii_letters}{digits}-_"
MAX_CHARS = 700


def altered_place(code: str, keys: Sequence[VendorPublicKey]) -> str | None:
    """What one step leads from `code` to one that a key signed, for people; None if none does.

    `code` is a single line without anything around it. Long codes are not tried.
    """
    if len(code) > MAX_CHARS:
        return None
    for step, other in _one_step_away(code):
        if _is_signed(other, keys):
            return step
    return None


def _is_signed(code: str, keys: Sequence[VendorPublicKey]) -> bool:
    try:
        read_code(code, ())
    except LicenseError:
        return False
    signed, _, signature = code.rpartition(".")
    return any(
        key.verifies(decode_part("signature", signature), signed.encode("ascii")) for key in keys
    )


def _one_step_away(code: str) -> Iterator[tuple[str, str]]:
    """Every text that differs from `code` in one place, and how, the likelier first."""
    first = len(PREFIX) + 1
    for at in range(first, len(code)):
        before, here, after = code[:at], code[at], code[at + 1 :]
        if after and after[0] != here:
            swapped = f"{before}{after[0]}{here}{after[1:]}"
            yield f"its characters {at + 1} and {at + 2} changed places", swapped
    for at in range(first, len(code)):
        before, here, after = code[:at], code[at], code[at + 1 :]
        for symbol in _SYMBOLS:
            if symbol != here:
                step = f"its character {at + 1} is {here!r} and was {symbol!r}"
                yield step, f"{before}{symbol}{after}"
    for at in range(first, len(code)):
        yield f"its character {at + 1}, {code[at]!r}, was added", code[:at] + code[at + 1 :]
    for at in range(first, len(code) + 1):
        for symbol in _SYMBOLS:
            step = f"{symbol!r} is missing before its character {at + 1}"
            yield step, f"{code[:at]}{symbol}{code[at:]}"
