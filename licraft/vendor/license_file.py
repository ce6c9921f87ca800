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
is a refusal. A refusal is one printable line of bounded length that names the
lines and causes of the first ten faults. Both are pure and take up to a second for
the largest file: a server calls them outside its event loop. Source: claims R10,
R19; pool protocol, section 8.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import yaml

from licraft.core.distribution import format_distribution, parse_distribution
from licraft.core.license import LicenseCode, LicenseFile
from licraft.errors import LicenseError
from licraft.vendor.codes import MAX_CODE_CHARS, distrust, read_code
from licraft.vendor.keys import VendorPublicKey
from licraft.vendor.wording import one_line, shown
from licraft.wire import MAX_LICENSE_BYTES
from licraft.yaml_text import Document, YamlFault, read_document

MAX_CODES = 5_000
MAX_DISTRIBUTION_SERVERS = 64
"""Far more than a pool has servers; a longer text is no distribution."""

MAX_SEQUENCE = 2**53 - 1
"""The largest number that every JSON reader keeps exact."""

# libyaml where PyYAML was built with it: 5,000 codes take a tenth of the time. Of ASCII text
# it makes the same bytes; beyond that it escapes what PyYAML writes as it is.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_TOO_LARGE = f"the license file is larger than {MAX_LICENSE_BYTES} bytes"
_SHOWN_FAULTS = 10
# A server's name, as the configuration has it.
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE_KEYS = ("pool", "sequence", "codes")
_CODE_KEYS = ("code", "distribution", "borrowing_threshold")


def decode_license_file(data: bytes) -> str:
    """The text of a license file's bytes, which are UTF-8; LicenseError says where not."""
    if len(data) > MAX_LICENSE_BYTES:
        raise LicenseError(_TOO_LARGE)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise LicenseError("the license file is UTF-16 text: save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise LicenseError(
            f"line {line}: the license file is not UTF-8 text: byte {data[fault.start]:#04x}. Was"
            " it changed on its way, or saved in another encoding?"
        ) from None


def parse_license_file(text: str, keys: Iterable[VendorPublicKey]) -> LicenseFile:
    """The license file that `text` is; each code carries its verdict in `trusted`.

    Raises LicenseError (`invalid_license`) naming every faulty line or code:
    not YAML, unknown or missing keys, wrong types, codes that are no codes, a
    code named twice, a distribution of more seats than its code has.
    """
    return _parse(text, keys)[0]


def read_license_file(text: str, keys: Iterable[VendorPublicKey], pool: str) -> LicenseFile:
    """The license file that `text` is, if `pool` may install it.

    Raises LicenseError (`invalid_license`) for all that `parse_license_file`
    refuses, for another pool's file, and for codes not signed by one of `keys`.
    Dates and the pool that single codes are bound to do not matter here: such
    codes are installed, listed with their status, and grant nothing.
    """
    trusted_keys = tuple(keys)
    file, document = _parse(text, trusted_keys)
    if file.pool is not None and file.pool != pool:
        raise LicenseError(
            f"line {document.line('pool')}: the license file is for the pool `{file.pool}`; this"
            f" pool is `{pool}`. Ask the vendor for a file for this pool"
        )
    if not trusted_keys:
        raise LicenseError(
            "this server has no vendor key to check license codes with: put the vendor's"
            " vendor.pub where the configuration's `vendor_keys` names it, restart, install again"
        )
    _refuse(
        _at(
            document,
            index,
            "code",
            f"{code.count} of {code.feature}, id {code.id}, is not signed by a vendor that is"
            f" trusted here: {distrust(code, trusted_keys)}",
        )
        for index, code in enumerate(file.codes)
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
    text: str = yaml.dump(
        document,
        Dumper=_Dumper if pool is None or pool.isascii() else yaml.SafeDumper,
        sort_keys=False,
        allow_unicode=True,
        width=2 * MAX_CODE_CHARS,
    )
    return text


class _Fault(Exception):
    """What is wrong at one key of the file, or of an entry of `codes`."""

    def __init__(self, key: object, detail: str) -> None:
        self.key = key
        super().__init__(detail)


def _parse(text: str, keys: Iterable[VendorPublicKey]) -> tuple[LicenseFile, Document]:
    """The license file that `text` is, and the places in it."""
    document, value = _document(text)
    trusted_keys = tuple(keys)
    try:
        _refuse_unknown_keys(value, _FILE_KEYS, "the license file")
        pool = _pool(value.get("pool"))
        sequence = _sequence(value.get("sequence"))
        entries = _entries(value.get("codes"))
    except _Fault as fault:
        raise LicenseError(f"line {document.line(fault.key)}: {fault}") from None
    codes, faults = [], []
    for index, entry in enumerate(entries):
        try:
            codes.append(_code(entry, trusted_keys))
        except _Fault as fault:
            faults.append(_at(document, index, fault.key, str(fault)))
    _refuse(faults)
    _refuse(_repetitions(document, codes))
    return LicenseFile(pool=pool, sequence=sequence, text=text, codes=tuple(codes)), document


def _at(document: Document, index: int, key: object, detail: str) -> str:
    """A fault of one entry, with its place."""
    return f"line {document.line('codes', index, key)}: code {index + 1}: {detail}"


def _document(text: str) -> tuple[Document, Mapping[object, object]]:
    """The YAML of a license file, and its keys and values."""
    # Measured in characters first: encoding costs memory that a refusal should not.
    if len(text) > MAX_LICENSE_BYTES or len(text.encode("utf-8", "replace")) > MAX_LICENSE_BYTES:
        raise LicenseError(_TOO_LARGE)
    try:
        document = read_document(text)
    except YamlFault as fault:
        raise LicenseError(
            f"the license file is not readable YAML: {one_line(str(fault))}. Was it cut short or"
            " changed on its way?"
        ) from None
    value = document.value
    if value is None:
        raise LicenseError("the license file is empty")
    if isinstance(value, str) and value.startswith("LIC1."):
        raise LicenseError(
            f"line {document.line()}: this is a single license code, no license file: write it"
            " under `codes:`, with a `sequence:` above"
        )
    if not isinstance(value, dict):
        raise LicenseError(
            f"line {document.line()}: found {shown(value)}; expected a license file's keys pool,"
            " sequence, codes"
        )
    return document, value


def _pool(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise _Fault(
            "pool",
            f"`pool` is {shown(value)}; expected the pool's name (in quotes if it is a number)"
            " or null for any pool",
        )
    return value


def _sequence(value: object) -> int:
    # A bool is an int to Python, but `sequence: yes` is a mistake.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SEQUENCE:
        raise _Fault(
            "sequence",
            f"`sequence` is {shown(value)}; expected a positive whole number, at most"
            f" {MAX_SEQUENCE}, greater than that of the file installed before",
        )
    return value


def _entries(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _Fault("codes", f"`codes` is {shown(value)}; expected a list of license codes")
    if not value:
        raise _Fault("codes", "`codes` is an empty list: the license file grants nothing")
    if len(value) > MAX_CODES:
        raise _Fault("codes", f"`codes` has {len(value)} entries; at most {MAX_CODES} are allowed")
    return value


def _code(entry: object, keys: tuple[VendorPublicKey, ...]) -> LicenseCode:
    if not isinstance(entry, dict):
        raise _Fault(None, f"it is {shown(entry)}; expected keys, the first of them `code:`")
    _refuse_unknown_keys(entry, _CODE_KEYS, "it")
    text = entry.get("code")
    if not isinstance(text, str):
        raise _Fault("code", f"its `code` is {shown(text)}; expected LIC1....")
    try:
        code = read_code(text, keys)
    except LicenseError as fault:
        raise _Fault("code", str(fault)) from None
    distribution = _distribution(entry.get("distribution"), code.count)
    threshold = _threshold(entry.get("borrowing_threshold"))
    return replace(code, distribution=distribution, threshold=threshold)


def _distribution(value: object, count: int) -> tuple[tuple[str, int], ...] | None:
    if value is None:
        return None
    if not isinstance(value, str) or value.count("^") >= MAX_DISTRIBUTION_SERVERS:
        raise _Fault(
            "distribution", f"its `distribution` is {shown(value)}; expected alpha:40^beta:30"
        )
    try:
        distribution = parse_distribution(value)
    except ValueError as fault:
        raise _Fault("distribution", f"its `distribution`: {one_line(str(fault))}") from None
    for server, _ in distribution:
        if not _SERVER_NAME.fullmatch(server):
            raise _Fault(
                "distribution",
                f"its `distribution` names the server {shown(server)}; a server's name has at most"
                " 64 letters, digits and . _ -, a letter or digit first",
            )
    total = sum(seats for _, seats in distribution)
    if total > count:
        raise _Fault(
            "distribution",
            f"its `distribution` adds up to {total} seats; the code has {count}",
        )
    return distribution


def _threshold(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise _Fault(
            "borrowing_threshold",
            f"its `borrowing_threshold` is {shown(value)}; expected a number above 0, at most 1",
        )
    return float(value)


def _repetitions(document: Document, codes: Iterable[LicenseCode]) -> Iterable[str]:
    """A code that is written twice must not count twice."""
    first: dict[str, int] = {}
    for index, code in enumerate(codes):
        earlier = first.setdefault(code.id, index)
        if earlier != index:
            line = document.line("codes", earlier, "code")
            detail = f"it has the id {code.id} of code {earlier + 1} (line {line}); remove one"
            yield _at(document, index, "code", detail)


def _refuse_unknown_keys(mapping: Mapping[Any, Any], known: tuple[str, ...], what: str) -> None:
    unknown = [key for key in mapping if key not in known]
    if unknown:
        raise _Fault(
            unknown[0],
            f"{what} has the unknown key {shown(unknown[0])}; expected {', '.join(known)}",
        )


def _refuse(faults: Iterable[str]) -> None:
    """Raise for all faults at once; a file of thousands of them names the first ten."""
    lines = list(faults)
    if len(lines) > _SHOWN_FAULTS:
        rest = len(lines) - _SHOWN_FAULTS
        lines = [*lines[:_SHOWN_FAULTS], f"and {rest} more"]
    if lines:
        raise LicenseError("; ".join(lines))
