"""Malformed and hostile license files, made systematically, with their lines and causes.

May import the vendor room and `bad_codes`. Every case says what a refusal must name: the
line of the file, if there is one, and the cause.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from licraft.vendor.codes import make_code
from licraft.vendor.license_file import MAX_CODES, MAX_DISTRIBUTION_SERVERS
from licraft.wire import MAX_LICENSE_BYTES
from support.bad_codes import POOL, SEQUENCE, Bad, Vendor, bad_codes, base64url, payload


def bad_files(vendor: Vendor) -> Iterator[Bad]:
    """License files that no pool called `POOL` may install."""
    yield from _bad_bytes(vendor)
    yield from _bad_yaml(vendor)
    yield from _bad_values(vendor)
    yield from _bad_signatures(vendor)
    yield from _bad_sizes(vendor)
    for case in bad_codes(vendor):
        # In quotes: it is the code that is refused, not what YAML makes of it.
        if case.is_text and case.text.isprintable():
            text = vendor.file(json.dumps(case.text, ensure_ascii=False), vendor.sim)
            yield Bad(f"code {case.name}", text.encode(), f"code 1: .*{case.cause}", 4)


def _bad_bytes(vendor: Vendor) -> Iterator[Bad]:
    good = vendor.file().encode()
    place = good.index(b"sequence")
    for name, wrong in (
        ("Latin-1", b"# f\xfcr\n"),
        ("a lone continuation byte", b"# \x80\n"),
        ("a cut character", b"# \xe2\x82\n"),
        ("overlong UTF-8", b"# \xc0\xaf\n"),
        ("a surrogate in UTF-8", b"# \xed\xa0\x80\n"),
        ("beyond Unicode", b"# \xf4\x90\x80\x80\n"),
        ("0xff", b"# \xff\n"),
    ):
        yield Bad(name, good[:place] + wrong + good[place:], "not UTF-8 text", 2)
    for encoding in ("utf-16-le", "utf-16-be"):
        bare = good.decode().encode(encoding)
        mark = "\ufeff".encode(encoding)
        yield Bad(f"{encoding} with a BOM", mark + bare, "UTF-16 text: save it as UTF-8")
        yield Bad(f"{encoding} without", bare, "U[+]0000.*UTF-16", 1)
    yield Bad("UTF-32", good.decode().encode("utf-32"), "UTF-16 text|not UTF-8")
    for number in (0x00, 0x01, 0x07, 0x08, 0x0B, 0x0C, 0x1B, 0x7F):
        text = good[:place] + b"# " + bytes([number]) + b"\n" + good[place:]
        yield Bad(f"the character {number:#04x}", text, rf"U[+]{number:04X} is not allowed", 2)
    yield Bad("a NUL at the end", good + b"\0", r"U[+]0000 is not allowed", 6)
    yield Bad("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not UTF-8 text", 1)
    yield Bad("an archive", b"PK\x03\x04" + bytes(60), "is not allowed", 1)
    yield Bad("carriage returns for lines", good.replace(b"\n", b"\r") + b"x: \x01", "U[+]0001", 6)


def _bad_yaml(vendor: Vendor) -> Iterator[Bad]:
    good = vendor.file()
    laughs = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
        for last, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for name, text, cause, line in (
        ("empty", "", "is empty", None),
        ("spaces", " \n \n", "is empty", None),
        ("a comment", "# nothing\n", "is empty", None),
        ("a text", "hello\n", "expected a license file's keys", 1),
        ("a number", "\n\n7\n", "expected a license file's keys", 3),
        ("a list", "- 1\n", "expected a license file's keys", 1),
        ("a code alone", vendor.cad, "a single license code", 1),
        ("JSON that is cut", '{"sequence": 5', "begins in line 1", None),
        ("an alias", good.replace("50", "*a"), "aliases", 2),
        ("an anchor", good.replace("50", "&a 50"), "anchors", 2),
        ("an anchor of a list", good.replace("codes:\n", "codes: &a\n"), "anchors", 3),
        ("a merge key", good + "<<: {x: 1}\n", "unknown key '<<'", 6),
        ("a merge of an alias", good + "<<: *a\n", "aliases", 6),
        ("a billion laughs", laughs, "anchors", 1),
        ("a billion laughs below", good + laughs, "anchors", 6),
        ("a tag that runs", good + "x: !!python/object/apply:os.system [id]\n", "tags", 6),
        ("a tag of an object", good.replace("50", "!!python/object:os.X {}"), "tags", 2),
        ("a tag of a name", good.replace("50", "!!python/name:os.system"), "tags", 2),
        ("a tag of a module", good.replace("50", "!!python/module:os"), "tags", 2),
        ("a tag of a type", good.replace(": 50", ": !!int '50'"), "tags", 2),
        ("a tag of text", good.replace(": acme", ": !!str acme"), "tags", 1),
        ("a tag of bytes", good.replace(": acme", ": !!binary YWNtZQ=="), "tags", 1),
        ("a tag of its own", good.replace(": acme", ": !pool acme"), "tags", 1),
        ("a bare tag", good.replace(": acme", ": ! acme"), "tags", 1),
        ("a tag of a set", good.replace("codes:", "codes: !!set"), "tags", 3),
        ("a tag of a key", good.replace("pool:", "!!str pool:"), "tags", 1),
        ("a directive", "%YAML 1.1\n---\n" + good, "directives", 1),
        ("a tag directive", "%TAG ! tag:yaml.org,2002:\n---\n" + good, "directives", 1),
        ("two documents", f"{good}---\n{good}", "second document", 6),
        ("a document after the end", f"{good}...\n---\nx: 1\n", "second document", 7),
        ("a key twice", good + "sequence: 51\n", "`sequence` is written twice", 6),
        ("a key twice, quoted", good + '"sequence": 51\n', "`sequence` is written twice", 6),
        ("codes twice", good + f"codes:\n- code: {vendor.sim}\n", "`codes` is written twice", 6),
        ("code twice in an entry", f"{good}  code: x\n", "`code` is written twice", 6),
        ("a key that is a list", good + "? [a]\n: 1\n", "a key is not plain text", 6),
        ("a key that is a mapping", good + "{a: 1}: 1\n", "a key is not plain text", 6),
        ("a tab before a key", good.replace("sequence", "\tsequence"), "YAML", 2),
        ("a tab in an entry", good + "\tdistribution: alpha:1\n", "YAML", 6),
        ("a key without a colon", good.replace("sequence:", "sequence"), "YAML", 3),
        ("a colon too many", good.replace("pool: acme", "pool: acme: x"), "YAML", 1),
        ("no space after a colon", good.replace(": 50", ":50"), "YAML", 3),
        ("a bracket not closed", good.replace("50", "[50"), "begins in line 2", 3),
        ("a brace not closed", good.replace("50", "{50"), "begins in line 2", 3),
        ("a bracket too many", good.replace("50", "50]\nx: ]"), "YAML", 3),
        ("a quote not closed", good.replace("acme", '"acme'), "begins in line 1", 6),
        ("another not closed", good.replace("acme", "'acme"), "begins in line 1", 6),
        ("an escape of nothing", good.replace("acme", '"\\q"'), "escape", 1),
        ("an at sign", good.replace("acme", "@acme"), "YAML", 1),
        ("a backquote", good.replace("acme", "`acme`"), "YAML", 1),
        ("a percent sign", good.replace("acme", "%acme"), "YAML", 1),
        ("lines out of step", good.replace("- code", "  - code", 1), "YAML", 5),
        ("a number of 5,000 digits", good.replace("50", "9" * 5000), "5000 digits", 2),
        ("deep brackets", "[" * 100_000, "nested deeper than 12", 1),
        ("deep braces", "{a: " * 20 + "1" + "}" * 20, "nested deeper than 12", 1),
        ("deep dashes", good + "x: " + "\n" + "- " * 20 + "x\n", "nested deeper than 12", 7),
        (
            "deep steps",
            "".join(f"{' ' * n}k:\n" for n in range(20)),
            "nested deeper than 12",
            13,
        ),
        ("a BOM in the middle", good.replace("codes", "\ufeffcodes"), "YAML", 3),
    ):
        yield Bad(name, text.encode(), cause, line)


_SEQUENCES: tuple[str, ...] = (
    *(
        "",
        "null",
        "~",
        "0",
        "-1",
        "-0",
        "+0",
        "1.0",
        "1.5",
        ".inf",
        "-.inf",
        ".nan",
        "1e3",
        "1.e+3",
    ),
    *(
        "yes",
        "no",
        "true",
        "on",
        "'50'",
        '"50"',
        "fifty",
        "[50]",
        "{a: 50}",
        "[]",
        "{}",
        "2026-12-31",
    ),
    *(str(2**53), str(2**63), str(2**64), "9" * 400, "050", "0x32", "0b110", "0o62", "5_0", "1:30"),
    *("50 51", "50,000", "\u0665\u0660", "\uff12\uff15", "!x"),
)
_POOLS = ("5", "yes", "2.5", "[acme]", "{a: b}", '""', "x" * 65, '"a\\nb"', '"\\e[31m"', "umbrella")
_DISTRIBUTIONS: tuple[str, ...] = (
    *(
        "5",
        "1.5",
        "yes",
        "[alpha]",
        "{alpha: 1}",
        '""',
        "alpha",
        "'alpha:'",
        ":5",
        "alpha:x",
        "alpha:-1",
    ),
    *(
        "alpha:1.5",
        "alpha:1e2",
        "alpha:101",
        "alpha:60^beta:41",
        "alpha:1000001",
        "alpha:1^alpha:1",
    ),
    *(
        "alpha:1^",
        "^alpha:1",
        "alpha:1^^beta:1",
        "alpha:1,beta:1",
        "'a b:1'",
        '"a\\nb:1"',
        "../x:1",
    ),
    *(
        "/etc/passwd:1",
        "'..:1'",
        "'-x:1'",
        "é:1",
        '"\\e[31m:1"',
        f"{'x' * 65}:1",
        f"alpha:{'9' * 5000}",
    ),
    "alpha:\u0665",
    "^".join(f"s{n}:1" for n in range(MAX_DISTRIBUTION_SERVERS + 1)),
    "^".join(f"s{n}:1" for n in range(200_000)),
)
_THRESHOLDS = (
    *(
        "0",
        "-0.5",
        "-1",
        "1.1",
        "2",
        "1e-2",
        ".nan",
        ".inf",
        "-.inf",
        "yes",
        "'0.8'",
        "half",
        "[0.8]",
    ),
    *("{a: 1}", "80%", "0,8", "0.0", "1:30", "9" * 400, "1" + "0" * 400 + ".5"),
)


def _bad_values(vendor: Vendor) -> Iterator[Bad]:
    good = vendor.file()
    for written in _SEQUENCES:
        cause = "`sequence` is|tags" if written != "!x" else "tags"
        text = good.replace("sequence: 50", f"sequence: {written}")
        yield Bad(f"sequence {written:.20}", text.encode(), cause, 2)
    for written in _POOLS:
        text = good.replace("pool: acme", f"pool: {written}")
        cause = (
            "for the pool `umbrella`; this pool is `acme`" if written == "umbrella" else "`pool` is"
        )
        yield Bad(f"pool {written:.20}", text.encode(), cause, 1)
    for written in _DISTRIBUTIONS:
        text = vendor.with_terms(f"distribution: {written}")
        yield Bad(f"distribution {written:.20}", text.encode(), "code 1: its `distribution`", 5)
    for written in _THRESHOLDS:
        text = vendor.with_terms(f"borrowing_threshold: {written}")
        yield Bad(f"threshold {written:.20}", text.encode(), "code 1: its `borrowing_threshold`", 5)
    head = f"pool: {POOL}\nsequence: {SEQUENCE}\n"
    for name, text, cause, line in (
        ("no sequence", good.replace("sequence: 50\n", ""), "`sequence` is missing", 1),
        ("no codes", head, "`codes` is missing", 1),
        ("codes null", head + "codes:\n", "`codes` is missing", 3),
        ("no code in codes", head + "codes: []\n", "empty list", 3),
        ("codes a mapping", head + "codes: {a: b}\n", "expected a list", 3),
        ("codes a text", head + f"codes: {vendor.cad}\n", "expected a list", 3),
        ("codes a number", head + "codes: 5\n", "expected a list", 3),
        ("an entry a text", head + f"codes:\n- {vendor.cad}\n", "code 1: it is 'LIC1", 4),
        ("an entry null", head + "codes:\n-\n", "code 1: it is missing", 4),
        ("an entry a list", head + f"codes:\n- [{vendor.cad}]\n", "code 1: it is a list", 4),
        ("an entry of nothing", head + "codes:\n- {}\n", "code 1: its `code` is missing", 4),
        ("a code that is a number", head + "codes:\n- code: 5\n", "code 1: its `code` is 5", 4),
        ("a code that is null", head + "codes:\n- code:\n", "code 1: its `code` is missing", 4),
        (
            "a code that is a list",
            head + "codes:\n- code: [a]\n",
            "code 1: its `code` is a list",
            4,
        ),
        ("an unknown key", "color: red\n" + good, "unknown key 'color'", 1),
        ("a misspelt key", good.replace("sequence", "sequense"), "unknown key 'sequense'", 2),
        ("a capital", good.replace("codes", "Codes"), "unknown key 'Codes'", 3),
        ("a key of 10,000", f"{good}{'x' * 900}: 1\n", "unknown key 'xxx", 6),
        ("a key of control characters", good + '"\\e[2J\\n": 1\n', r"unknown key '\\x1b", 6),
        ("a number for a key", good + "5: 1\n", "unknown key 5", 6),
        ("an unknown key of a code", good + "  seats: 5\n", "code 2: .*unknown key 'seats'", 6),
        ("a code twice", vendor.file(vendor.cad, vendor.sim, vendor.cad), r"code 3: .*line 4", 6),
        (
            "another code of the same id",
            vendor.file(vendor.cad, make_code(vendor.key, feature="x", count=1, id="cad-1")),
            "code 2: it has the id cad-1 of code 1",
            5,
        ),
        (
            "a third code wrong",
            vendor.file(vendor.cad, vendor.sim, "LIC1.x"),
            "code 3: .*cut short",
            6,
        ),
    ):
        yield Bad(name, text.encode(), cause, line)


def _bad_signatures(vendor: Vendor) -> Iterator[Bad]:
    signed, _, signature = vendor.cad.rpartition(".")
    other_signed, _, other_signature = vendor.sim.rpartition(".")
    foreign = make_code(vendor.other, feature="cad", count=500)
    posing = make_code(vendor.other, feature="cad", count=500, vendor=vendor.key.public.fingerprint)
    more = vendor.signed(payload()).split(".")[1]
    seats = base64url(json.dumps(payload(count=999)).encode())
    for name, code, cause in (
        ("another vendor's", foreign, f"key {vendor.other.public.fingerprint}, not"),
        ("posing as this vendor's", posing, "not what that key signed"),
        ("with another's signature", f"{signed}.{other_signature}", "not what that key signed"),
        ("with another's payload", f"{other_signed}.{signature}", "not what that key signed"),
        ("with a payload of its own", f"LIC1.{more}.{signature}", "it was changed, or signed by"),
        ("with more seats", f"LIC1.{seats}.{signature}", "it was changed, or signed by"),
        ("signed with nothing", f"{signed}.{'A' * 86}", "not what that key signed"),
        ("signed with ones", f"{signed}.{'_' * 85}w", "not what that key signed"),
    ):
        yield Bad(f"a code {name}", vendor.file(vendor.cam, code).encode(), f"code 2: .*{cause}", 5)
        yield Bad(f"first {name}", vendor.file(code).encode(), f"code 1: .*{cause}", 4)
    for at in range(0, 84, 7):
        wrong = signature[:at] + ("A" if signature[at] != "A" else "B") + signature[at + 1 :]
        text = vendor.file(vendor.sim, f"{signed}.{wrong}").encode()
        yield Bad(f"character {at} of a signature changed", text, "code 2: .*not what that key", 5)


def _bad_sizes(vendor: Vendor) -> Iterator[Bad]:
    full = MAX_LICENSE_BYTES
    good = vendor.file()

    def filled(unit: str) -> bytes:
        return (unit * (full // len(unit.encode()))).encode()

    for name, data, cause, line in (
        ("a byte too large", b"#" * (full + 1), "larger than", None),
        ("much too large", b" " * (3 * full), "larger than", None),
        ("too large in bytes alone", ("é" * (full // 2 + 1)).encode(), "larger than", None),
        ("one long line", b"x" * full, "found 'xxx", 1),
        ("one long comment", b"#" * full, "is empty", None),
        ("one long line in quotes", b'"' + b"x" * (full - 2) + b'"', "found 'xxx", 1),
        ("line breaks", b"\n" * full, "is empty", None),
        ("many values", filled("- a\n"), "more than 100000 values", None),
        ("many lists", b"[" + filled("[],")[:-1], "more than 100000 values", 1),
        ("many keys", "".join(f"k{n}: 1\n" for n in range(200_000)).encode(), "more than", None),
        ("many numbers", filled("- 1:1:1:1\n"), "more than 100000 values", None),
        (
            "many tags",
            "".join(f"%TAG !a{n}! x\n" for n in range(190_000)).encode(),
            "directives",
            1,
        ),
        ("many directives", filled("%YAML 1.1\n"), "directives", 1),
        ("many brackets", b"[" * full, "nested deeper", 1),
        ("many dashes", filled("- "), "nested deeper", 1),
        ("many questions", filled("? "), "not plain text", 1),
        ("many documents", filled("---\n"), "second document", 2),
        ("many digits", b"1" * full, "digits", 1),
        ("many minutes", b"1" + filled(":1")[1:], "found '11:1", 1),
        ("many anchors", filled("&a "), "anchors", 1),
        ("many aliases", filled("*a "), "aliases", 1),
        ("one long tag", b"!<" + b"a" * (full - 2), "tag", 1),
        ("a folded text", b"codes: >\n" + filled(" x\n\n")[:-20], "`sequence` is missing", 1),
        ("too many codes", f"sequence: 1\ncodes:\n{'- code: x' * 1}\n".encode(), "code 1: ", 3),
        (
            "a code too many",
            ("sequence: 1\ncodes:\n" + "- code: x\n" * (MAX_CODES + 1)).encode(),
            f"{MAX_CODES + 1} entries",
            2,
        ),
        (
            "as many bad codes as may be",
            ("sequence: 1\ncodes:\n" + "- code: x\n" * MAX_CODES).encode(),
            "and 4990 more",
            3,
        ),
        (
            "many codes that are too long",
            ("sequence: 1\ncodes:\n" + f"- code: LIC1.{'A' * 17_000}\n" * 180).encode(),
            "code 1: .*characters, more than .*and 170 more",
            3,
        ),
        (
            "many codes of dust",
            ("sequence: 1\ncodes:\n" + f'- code: "LIC1.{"=" * 16_000}"\n' * 190).encode(),
            "code 1: .*and 180 more",
            3,
        ),
        (
            "many distributions that are too long",
            (
                "sequence: 1\ncodes:\n"
                + f"- code: {vendor.cad}\n  distribution: {'a:1^' * 4000}\n" * 180
            ).encode(),
            "code 1: its `distribution`.*and 170 more",
            4,
        ),
        (
            "a long line after all",
            f"{good}#{'x' * 2_000_000}\nx: 1\n".encode(),
            "unknown key 'x'",
            7,
        ),
    ):
        yield Bad(name, data, cause, line)
