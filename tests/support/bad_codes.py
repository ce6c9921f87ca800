"""Malformed and hostile license codes, made systematically, with their causes.

May import the vendor room. Every case says what a refusal must name. Codes are signed
for real wherever the signature is not what is wrong: nothing is refused for another
reason than it should be.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from licraft.vendor.codes import MAX_CODE_CHARS, make_code, read_code
from licraft.vendor.keys import VendorPrivateKey
from licraft.wire import MAX_LICENSE_BYTES

POOL = "acme"
SEQUENCE = 50


@dataclass(frozen=True)
class Bad:
    """A file or a code that must be refused; `cause` is a pattern, `line` the file's line."""

    name: str
    data: bytes = field(repr=False)
    cause: str
    line: int | None = None

    @property
    def text(self) -> str:
        """What a reader of text gets of it."""
        return self.data.decode("utf-8", "surrogateescape")

    @property
    def is_text(self) -> bool:
        """Whether it is UTF-8 and not too large: what comes as far as the YAML."""
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return len(self.data) <= MAX_LICENSE_BYTES


class Vendor:
    """Makes good and bad codes and files, signed by `key`, or by `other`, whom nobody trusts."""

    def __init__(self, key: VendorPrivateKey, other: VendorPrivateKey) -> None:
        self.key, self.other = key, other
        self.cad = make_code(key, feature="cad", count=100, id="cad-1")
        self.sim = make_code(key, feature="sim", count=50, id="sim-1")
        self.cam = make_code(key, feature="cam", count=7, id="cam-1")

    def signed(self, payload: bytes | Mapping[str, Any]) -> str:
        """A code that is truly signed, whatever its payload is worth."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        text = f"LIC1.{base64url(body)}"
        return f"{text}.{base64url(self.key.sign(text.encode()))}"

    def file(self, *codes: str, pool: str = POOL, sequence: object = SEQUENCE) -> str:
        """A file of these codes, or of the two good ones: line 4 begins with the first."""
        entries = "".join(f"- code: {code}\n" for code in codes or (self.cad, self.sim))
        return f"pool: {pool}\nsequence: {sequence}\ncodes:\n{entries}"

    def with_terms(self, terms: str) -> str:
        """A file of one code; `terms` follow it in line 5."""
        return f"{self.file(self.cad)}  {terms}\n"


def base64url(data: bytes) -> str:
    """Unpadded base64url text."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload(**changes: Any) -> dict[str, Any]:
    """A good payload but for `changes`; a change to `...` leaves the field out."""
    fields: dict[str, Any] = {
        "vendor": "ACME",
        "id": "code-1",
        "feature": "cad",
        "version": "2026.1",
        "count": 10,
        "starts": "2026-01-01",
        "expires": "2026-12-31",
        "pool": None,
        "options": {"module": "flow"},
    } | changes
    return {name: value for name, value in fields.items() if value is not ...}


# -- what is wrong with a signed payload --------------------------------------------------

_DATES: tuple[object, ...] = (
    *("2026-02-30", "2026-02-29", "2026-00-10", "2026-13-01", "2026-01-00", "2026-01-32"),
    *("0000-01-01", "10000-01-01", "-0001-01-01", "+2026-01-01", "2026-1-1", "20260101"),
    *("2026-W01-1", "2026-001", "01/02/2026", "31.12.2026", "2026-12-31T00:00:00"),
    *("2026-12-31T23:59:59Z", "2026-12-31T00:00:00+02:00", "2026-12-31Z", " 2026-12-31"),
    *("2026-12-31 ", "2026-12-31\n", "tomorrow", "never", "", "\uff12026-12-31"),
    *(0, 20261231, 1798675200, 1798675200.5, True, [], {}, ["2026-12-31"]),
)
_COUNTS: tuple[object, ...] = (
    *(0, -1, -(2**31), 1_000_001, 2**31, 2**53, 2**63, 2**64, 10**300),
    *(1.5, 10.0, 1e3, True, False, None, "10", "", [], [10], {}),
)
_NAMES: tuple[object, ...] = (
    *("", " ", "a\nb", "a\rb", "a\tb", "a\0b", "\x1b[31mred", "\x7f", "a\u0085b", "a\u2028b"),
    *("\u202egnp.exe", "zero\u200bwidth", "\ufeffcad", " cad", "cad ", "\u00a0cad"),
    *("x" * 129, None, 7, True, ["cad"], {"cad": 1}),
)
_OPTIONS: tuple[object, ...] = (None, [], "a=b", {"a": 1}, {"a": None}, {"": "x"}, {"x" * 65: ""})
_PATHS = ("..", ".", "../../etc/passwd", "/etc/passwd", "a/b", "..\\..\\windows", "C:\\x", "a\\")


def bad_payloads() -> Iterator[tuple[str, bytes, str]]:
    """(name, payload, cause) of every sort."""

    def changed(label: str, cause: str, **changes: Any) -> tuple[str, bytes, str]:
        return label, json.dumps(payload(**changes)).encode(), cause

    for day in _DATES:
        yield changed(f"starts {day!r}", r"\$\.starts", starts=day)
    for day in _DATES[::4]:
        yield changed(f"expires {day!r}", r"\$\.expires", expires=day)
    yield changed("starts after it expires", "after it expires on 2025-", expires="2025-12-31")
    for count in _COUNTS:
        yield changed(f"count {count!r:.40}", r"\$\.count|malformed", count=count)
    for token in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 5000, b"0x10", b"010", b"+5"):
        body = json.dumps(payload(count=77)).encode().replace(b"77", token)
        yield f"count {token[:20]!r}", body, r"malformed|\$\.count"
    for name in _NAMES:
        yield changed(f"feature {name!r:.40}", "`feature`|feature", feature=name)
    for name in _PATHS:
        yield changed(f"feature {name!r}", "`feature` is .*not allowed", feature=name)
    for named in ("vendor", "version", "pool"):
        yield changed(f"{named} of two lines", f"`{named}`", **{named: "a\nb"})
        yield changed(f"{named} empty", rf"\$\.{named}", **{named: ""})
        yield changed(f"{named} 5", rf"\$\.{named}", **{named: 5})
    for id in ("", "a b", "a/b", "../x", "id\n", "é", "x" * 65, 5, None):
        yield changed(f"id {id!r:.20}", r"\$\.id", id=id)
    for options in _OPTIONS:
        yield changed(f"options {options!r:.30}", r"\$\.options", options=options)
    yield changed("a value of 257", r"\$\.options", options={"a": "x" * 257})
    yield changed("65 options", r"\$\.options", options={str(n): "" for n in range(65)})
    yield changed("an option in two lines", "`options`", options={"a\nb": ""})
    for named in sorted(payload()):
        yield changed(f"no {named}", f"missing required field `{named}`", **{named: ...})
    yield changed("an unknown field", "unknown field `seats`", seats=5)
    yield changed("an unknown field of 2,000", "unknown field `x", **{"x\n" * 1000: 5})
    good = json.dumps(payload()).encode()
    for name, body, cause in (
        ("count twice", good.replace(b'"count": 10', b'"count": 1, "count": 10'), "'count' twice"),
        ("option twice", good.replace(b'"flow"', b'"flow", "module": "x"'), "'module' twice"),
        ("nothing in it", b"{}", "missing required field"),
        ("a list", b"[]", "Expected `object`"),
        ("null", b"null", "Expected `object`"),
        ("a text", b'"cad"', "Expected `object`"),
        ("no JSON", b"cad:100", "not JSON"),
        ("YAML", b"feature: cad", "not JSON"),
        ("cut", good[:-20], "not JSON"),
        ("two objects", good + good, "not JSON"),
        ("single quotes", good.replace(b'"', b"'"), "not JSON"),
        ("a comma too many", good[:-1] + b",}", "not JSON"),
        ("a comment", good[:-1] + b"/* */}", "not JSON"),
        ("a NUL after it", good + b"\0", "not JSON"),
        ("a BOM before it", b"\xef\xbb\xbf" + good, "not JSON"),
        ("UTF-16", good.decode().encode("utf-16"), "not JSON"),
        ("Latin-1", good.replace(b"cad", b"c\xe4d"), "not JSON"),
        ("a lone surrogate", good.replace(b"cad", b"\\ud800"), "not JSON"),
        ("a surrogate in UTF-8", good.replace(b"cad", b"\xed\xa0\x80"), "not JSON"),
        ("overlong UTF-8", good.replace(b"cad", b"\xc0\xaf"), "not JSON"),
        ("deep", b"[" * 4000, "payload"),
        ("deep in a field", good.replace(b'"cad"', b'{"a":' * 500 + b"1" + b"}" * 500), "payload"),
    ):
        yield name, body, cause


# -- codes --------------------------------------------------------------------------------


def bad_codes(vendor: Vendor) -> Iterator[Bad]:
    """Texts that are no license codes, whoever signed them."""

    def bad(name: str, text: str, cause: str) -> Bad:
        return Bad(name, text.encode("utf-8", "surrogatepass"), cause)

    code = vendor.cad
    signed, _, signature = code.rpartition(".")
    dot = len(signed)
    for length in (0, 1, 3, 4):
        yield bad(f"cut to {length}", code[:length], "does not begin with `LIC1.`")
    yield bad("cut to its prefix", code[:5], "nothing between its dots")
    for length in range(8, dot, 12):
        yield bad(f"cut to {length}", code[:length], f"within its payload, after {length} ")
    yield bad("cut before the last dot", code[:dot], "its signature is missing")
    yield bad("cut after the last dot", code[: dot + 1], "its signature is missing")
    for length in (1, 4, 43, 64, 84, 85):
        cut = code[: dot + 1 + length]
        yield bad(
            f"{length} of its signature", cut, f"cut short: its signature.* has {length} of 86"
        )
    yield bad("a signature too long", code + "A", "has 87 characters instead of 86")
    yield bad("the signature twice", f"{code}{signature}", "has 172 characters instead of 86")
    yield bad("a signature that ends wrong", code[:-1] + "B", "last character .*signature is 'B'")
    yield bad("two codes", code + vendor.sim, "parts between dots")
    yield bad("two codes in two lines", f"{code}\n{vendor.sim}", "parts between dots")
    yield bad("four parts", code + ".AAAA", "4 parts between dots")
    yield bad("no payload", f"LIC1..{signature}", "nothing between its dots")
    yield bad("a character lost", code[:20] + code[21:], "a character was lost or added")
    yield bad("four characters lost", code[:20] + code[24:], "not JSON|payload is wrong")
    for at in range(6, dot, 23):
        changed = code[:at] + ("A" if code[at] != "A" else "B") + code[at + 1 :]
        if not _is_read(changed):
            yield bad(f"character {at + 1} changed", changed, "payload")
    for symbol in "+/=%$&!?:*()[]{}~^|\\<":
        text = f"{code[:30]}{symbol}{code[31:]}"
        cause = rf"character 31 of the license code is {re.escape(repr(symbol))}"
        yield bad(f"{symbol} in it", text, cause)
    for symbol, name in (
        ("\0", r"'\\x00'"),
        ("\x1b", r"'\\x1b'"),
        ("é", "U[+]00E9 LATIN SMALL LETTER E WITH ACUTE"),
        ("\u0410", "U[+]0410 CYRILLIC CAPITAL LETTER A"),
        ("\uff21", "U[+]FF21 FULLWIDTH LATIN CAPITAL LETTER A"),
        ("\u2026", "U[+]2026 HORIZONTAL ELLIPSIS"),
        ("\U0001f600", "U[+]1F600 GRINNING FACE"),
        ("\ud800", "U[+]D800"),
    ):
        text = f"{code[:30]}{symbol}{code[31:]}"
        yield bad(
            f"U+{ord(symbol):04X} in it", text, f"character 31 of the license code is .*{name}"
        )
    yield bad("in line 3", f"{code[:30]}\n{code[30:60]}\n{code[60:70]}#", "character 11 of line 3")
    for dash in "\u2013\u2014\u2015":
        text = f"{code[:30]}{dash}{code[31:]}"
        yield bad(
            f"a dash U+{ord(dash):04X}", text, "character 31 .* one hyphen or two stood there"
        )
    yield bad("padding", code + "==", "is '='")
    yield bad("small letters", code.lower(), "small letters and capitals differ")
    yield bad("the next format", code.replace("LIC1", "LIC2"), "does not begin with `LIC1.`")
    yield bad("a sentence before it", f"Your code: {code}", "from character 12 may be one")
    yield bad("no code", "hello", "does not begin with `LIC1.`")
    yield bad("a key", "-----BEGIN PRIVATE KEY-----", "does not begin with `LIC1.`")
    yield bad("a JWT", "eyJhbGciOiJub25lIn0.e30.", "does not begin with `LIC1.`")
    yield bad("a character too long", "LIC1." + "A" * (MAX_CODE_CHARS - 4), "characters, more than")
    yield bad("much too long", "LIC1." + "A" * 1_000_000, "characters, more than")
    yield bad(
        "spaces without end", "LIC1." + " " * (2 * MAX_CODE_CHARS - 10) + "x", "its signature|p"
    )
    yield bad("marks without end", "> " * MAX_CODE_CHARS, "does not begin with `LIC1.`")
    yield bad("dots without end", "LIC1" + "." * 8000, "7999 parts|8001 parts")
    yield bad("dashes without end", "LIC1." + "\u2014" * 8000, "one hyphen or two|characters")
    for name, body, cause in bad_payloads():
        yield bad(f"signed: {name}", vendor.signed(body), cause)


def _is_read(code: str) -> bool:
    try:
        read_code(code, ())
    except Exception:  # noqa: BLE001  # whatever it is: the test of the case will show it
        return False
    return True
