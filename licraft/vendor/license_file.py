"""The text of the redundant license file: YAML <-> `core.license.LicenseFile`.

    pool: acme                 # null or absent = any pool
    sequence: 7
    codes:
      - code: LIC1....
        distribution: alpha:40^beta:30^gamma:30
        borrowing_threshold: 0.8

May import `core`, `errors`, `wire`, `yaml_text` and this room. Two readers, since
two questions differ: `parse_license_file` for a file that the pool already holds
(structure only; codes that nobody trusted signed keep that verdict), and
`read_license_file` for one that is offered for installation, where every fault
is a refusal. Both are pure and take up to a second for the largest file: a
server calls them outside its event loop. Source: claims R10, R19; pool
protocol, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import yaml

from licraft.core.distribution import format_distribution, parse_distribution
from licraft.core.license import LicenseCode, LicenseFile
from licraft.errors import LicenseError
from licraft.vendor.codes import MAX_CODE_CHARS, read_code
from licraft.vendor.keys import VendorPublicKey
from licraft.wire import MAX_LICENSE_BYTES
from licraft.yaml_text import YamlFault, read_yaml

MAX_CODES = 5_000
MAX_SEQUENCE = 2**53 - 1
"""The largest number that every JSON reader keeps exact."""

_SHOWN_FAULTS = 10
_FILE_KEYS = ("pool", "sequence", "codes")
_CODE_KEYS = ("code", "distribution", "borrowing_threshold")


def parse_license_file(text: str, keys: Iterable[VendorPublicKey]) -> LicenseFile:
    """The license file that `text` is; each code carries its verdict in `trusted`.

    Raises LicenseError (`invalid_license`) naming every faulty line or code:
    not YAML, unknown or missing keys, wrong types, codes that are no codes, a
    code named twice, a distribution of more seats than its code has.
    """
    document = _document(text)
    trusted_keys = tuple(keys)
    _refuse_unknown_keys(document, _FILE_KEYS, "the license file")
    pool = _pool(document.get("pool"))
    sequence = _sequence(document.get("sequence"))
    codes, faults = [], []
    for number, entry in enumerate(_entries(document.get("codes")), start=1):
        try:
            codes.append(_code(entry, trusted_keys))
        except LicenseError as fault:
            faults.append(f"code {number}: {fault}")
    _refuse(faults)
    _refuse(_repetitions(codes))
    return LicenseFile(pool=pool, sequence=sequence, text=text, codes=tuple(codes))


def read_license_file(text: str, keys: Iterable[VendorPublicKey], pool: str) -> LicenseFile:
    """The license file that `text` is, if `pool` may install it.

    Raises LicenseError (`invalid_license`) for all that `parse_license_file`
    refuses, for another pool's file, and for codes not signed by one of `keys`.
    Dates and the pool that single codes are bound to do not matter here: such
    codes are installed, listed with their status, and grant nothing.
    """
    trusted_keys = tuple(keys)
    file = parse_license_file(text, trusted_keys)
    if file.pool is not None and file.pool != pool:
        raise LicenseError(
            f"the license file is for the pool `{file.pool}`; this pool is `{pool}`. Ask the"
            " vendor for a file for this pool"
        )
    if not trusted_keys:
        raise LicenseError(
            "this server has no vendor key to check license codes with: put the vendor's"
            " vendor.pub where the configuration's `vendor_keys` names it, restart, install again"
        )
    _refuse(
        f"code {number}: {code.count} of {code.feature}, id {code.id}, is not signed by a vendor"
        " that this pool trusts. Was it changed, or is its vendor's key missing in `vendor_keys`?"
        for number, code in enumerate(file.codes, start=1)
        if not code.trusted
    )
    return file


def write_license_file(pool: str | None, sequence: int, codes: Iterable[LicenseCode]) -> str:
    """The text of a license file; reading it gives the same pool, sequence and codes."""
    entries = []
    for code in codes:
        entry: dict[str, object] = {"code": code.code}
        if code.distribution is not None:
            entry["distribution"] = format_distribution(code.distribution)
        if code.threshold is not None:
            entry["borrowing_threshold"] = code.threshold
        entries.append(entry)
    document = {"pool": pool, "sequence": sequence, "codes": entries}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=2 * MAX_CODE_CHARS)


def _document(text: str) -> Mapping[Any, Any]:
    # Measured in characters first: encoding costs memory that a refusal should not.
    if len(text) > MAX_LICENSE_BYTES or len(text.encode("utf-8", "replace")) > MAX_LICENSE_BYTES:
        raise LicenseError(f"the license file is larger than {MAX_LICENSE_BYTES} bytes")
    try:
        document = read_yaml(text)
    except YamlFault as fault:
        raise LicenseError(
            f"the license file is not readable YAML: {fault}. Was it cut short or changed on"
            " its way?"
        ) from None
    if document is None:
        raise LicenseError("the license file is empty")
    if isinstance(document, str) and document.startswith("LIC1."):
        raise LicenseError(
            "this is a single license code, no license file: write it under `codes:`, with a"
            " `sequence:` above"
        )
    if not isinstance(document, dict):
        raise LicenseError("the license file is no list of keys: expected pool, sequence, codes")
    return document


def _pool(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value or len(value) > 64):
        raise LicenseError(
            f"`pool` is {_shown(value)}; expected the pool's name (in quotes if it is a number)"
            " or null for any pool"
        )
    return value


def _sequence(value: object) -> int:
    # A bool is an int to Python, but `sequence: yes` is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SEQUENCE:
        raise LicenseError(
            f"`sequence` is {_shown(value)}; expected a positive whole number, greater than that"
            " of the file installed before"
        )
    return value


def _entries(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise LicenseError(f"`codes` is {_shown(value)}; expected a list of license codes")
    if not value:
        raise LicenseError("`codes` is an empty list: the license file grants nothing")
    if len(value) > MAX_CODES:
        raise LicenseError(f"`codes` has {len(value)} entries; at most {MAX_CODES} are allowed")
    return value


def _code(entry: object, keys: tuple[VendorPublicKey, ...]) -> LicenseCode:
    if not isinstance(entry, dict):
        raise LicenseError(f"it is {_shown(entry)}; expected keys, the first of them `code:`")
    _refuse_unknown_keys(entry, _CODE_KEYS, "it")
    text = entry.get("code")
    if not isinstance(text, str):
        raise LicenseError(f"its `code` is {_shown(text)}; expected LIC1....")
    code = read_code(text, keys)
    distribution = _distribution(entry.get("distribution"), code.count)
    threshold = _threshold(entry.get("borrowing_threshold"))
    return replace(code, distribution=distribution, threshold=threshold)


def _distribution(value: object, count: int) -> tuple[tuple[str, int], ...] | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise LicenseError(f"its `distribution` is {_shown(value)}; expected alpha:40^beta:30")
    try:
        distribution = parse_distribution(value)
    except ValueError as fault:
        raise LicenseError(f"its `distribution`: {fault}") from None
    total = sum(seats for _, seats in distribution)
    if total > count:
        raise LicenseError(f"its `distribution` adds up to {total} seats; the code has {count}")
    return distribution


def _threshold(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise LicenseError(
            f"its `borrowing_threshold` is {_shown(value)}; expected a number above 0, at most 1"
        )
    return float(value)


def _repetitions(codes: Iterable[LicenseCode]) -> Iterable[str]:
    """A code that is written twice must not count twice."""
    first: dict[str, int] = {}
    for number, code in enumerate(codes, start=1):
        earlier = first.setdefault(code.id, number)
        if earlier != number:
            yield f"code {number}: it has the same id as code {earlier} ({code.id}); remove one"


def _refuse_unknown_keys(mapping: Mapping[Any, Any], known: tuple[str, ...], what: str) -> None:
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise LicenseError(
            f"{what} has the unknown key `{unknown[0][:40]}`; expected {', '.join(known)}"
        )


def _refuse(faults: Iterable[str]) -> None:
    """Raise for all faults at once; a file of thousands of them names the first ten."""
    lines = list(faults)
    if len(lines) > _SHOWN_FAULTS:
        rest = len(lines) - _SHOWN_FAULTS
        lines = [*lines[:_SHOWN_FAULTS], f"and {rest} more"]
    if lines:
        raise LicenseError("; ".join(lines))


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
