"""The redundant license file's text: round trips, and every way it can be wrong."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from licraft.core.license import LicenseCode
from licraft.errors import LicenseError
from licraft.vendor import license_file
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import generate
from licraft.vendor.license_file import (
    MAX_CODES,
    decode_license_file,
    parse_license_file,
    read_license_file,
    write_license_file,
)
from licraft.wire import MAX_LICENSE_BYTES

KEY = generate()
KEYS = [KEY.public]
OTHER = generate()


def new_code(count: int = 100, feature: str = "cad", pool: str | None = None) -> LicenseCode:
    return read_code(make_code(KEY, feature=feature, count=count, pool=pool), KEYS)


CAD, SIM = new_code(), new_code(50, "sim")
FOREIGN = read_code(make_code(OTHER, feature="gold", count=9), KEYS)
TEXT = write_license_file("acme", 7, [CAD, SIM])


terms = st.tuples(
    st.none()
    | st.dictionaries(
        st.sampled_from(["alpha", "beta", "gamma"]), st.integers(0, 20), min_size=1
    ).map(lambda seats: tuple(sorted(seats.items()))),
    st.none() | st.floats(0.01, 1),
)


@given(
    st.none() | st.sampled_from(["acme", "2026", "no", "null", "a.b_c-d"]),
    st.integers(1, 2**53 - 1),
    st.lists(terms, min_size=1, max_size=4),
)
def test_what_is_written_is_what_is_read(
    pool: str | None, sequence: int, entries: list[tuple[tuple[tuple[str, int], ...] | None, float]]
) -> None:
    codes = tuple(replace(new_code(), distribution=d, threshold=t) for d, t in entries)
    text = write_license_file(pool, sequence, codes)
    file = read_license_file(text, KEYS, pool or "any")
    assert (file.pool, file.sequence, file.codes, file.text) == (pool, sequence, codes, text)


@given(
    st.none() | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), max_size=64),
    st.lists(terms, min_size=1, max_size=3),
)
@example("\U0001f600", [(None, 0.5)])
def test_with_or_without_libyaml_the_same_bytes_are_written(
    pool: str | None, entries: list[tuple[tuple[tuple[str, int], ...] | None, float]]
) -> None:
    codes = tuple(replace(CAD, distribution=d, threshold=t) for d, t in entries)
    written = write_license_file(pool, 7, codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(license_file, "_Dumper", yaml.SafeDumper)
        assert write_license_file(pool, 7, codes) == written


@pytest.mark.skipif(not hasattr(yaml, "CSafeDumper"), reason="PyYAML has no libyaml here")
def test_the_largest_file_is_written_in_time() -> None:
    began_s = time.process_time()
    write_license_file("acme", 7, [CAD] * MAX_CODES)
    assert time.process_time() - began_s < 0.8


def test_the_example_of_the_contract_is_read() -> None:
    text = (
        "pool: acme                 # null = any pool\n"
        "sequence: 7\n"
        "codes:\n"
        f"  - code: {CAD.code}\n"
        "    distribution: alpha:40^beta:30^gamma:30\n"
        "    borrowing_threshold: 0.8\n"
    )
    (code,) = read_license_file(text, KEYS, "acme").codes
    assert dict(code.distribution or ()) == {"alpha": 40, "beta": 30, "gamma": 30}
    assert code.threshold == 0.8
    assert read_license_file("\ufeff" + text.replace("\n", "\r\n"), KEYS, "acme").sequence == 7


def test_a_code_wrapped_over_several_lines_is_read() -> None:
    half = len(CAD.code) // 2
    wrapped = f"sequence: 1\ncodes:\n- code: {CAD.code[:half]}\n    {CAD.code[half:]}\n"
    assert read_license_file(wrapped, KEYS, "acme").codes == (CAD,)


def test_a_file_for_any_pool_and_codes_bound_to_another_are_read() -> None:
    bound = new_code(pool="other")
    file = read_license_file(write_license_file(None, 1, [bound]), KEYS, "acme")
    assert file.pool is None
    assert file.codes == (bound,)


def test_another_pools_file_is_refused_but_can_be_parsed() -> None:
    with pytest.raises(LicenseError, match="for the pool `acme`; this pool is `globex`"):
        read_license_file(TEXT, KEYS, "globex")
    assert parse_license_file(TEXT, KEYS).pool == "acme"


def test_every_code_that_is_not_trusted_is_named() -> None:
    changed = replace(SIM, code=f"{SIM.code[:-8]}AAAAAAAA")
    text = write_license_file("acme", 7, [FOREIGN, CAD, changed])
    with pytest.raises(LicenseError) as caught:
        read_license_file(text, KEYS, "acme")
    assert caught.value.code == "invalid_license"
    assert "code 1: 9 of gold" in str(caught.value)
    assert "code 2" not in str(caught.value)
    assert "code 3: 50 of sim" in str(caught.value)
    assert [code.trusted for code in parse_license_file(text, KEYS).codes] == [False, True, False]


def test_without_a_vendor_key_it_says_so() -> None:
    with pytest.raises(LicenseError, match="no vendor key"):
        read_license_file(TEXT, [], "acme")


def test_a_file_cut_short_anywhere_is_never_taken_for_a_whole_one() -> None:
    text = write_license_file("acme", 7, [CAD])
    for length in range(len(text.rstrip())):
        with pytest.raises(LicenseError):
            read_license_file(text[:length], KEYS, "acme")


ENTRY = f"- code: {CAD.code}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("codes: [", "YAML: line"),
        ("sequence: 1\n\tcodes: x", "line 2"),
        ("\x00", "YAML"),
        ("just text", "pool, sequence, codes"),
        ("- 1\n", "pool, sequence, codes"),
        (CAD.code, "single license code"),
        (TEXT.replace("sequence: 7\n", ""), "`sequence` is missing"),
        (TEXT.replace(": 7", ": 0"), "`sequence` is 0"),
        (TEXT.replace(": 7", ": -7"), "`sequence` is -7"),
        (TEXT.replace(": 7", ": 7.5"), "`sequence` is 7.5"),
        (TEXT.replace(": 7", ": '7'"), "`sequence` is '7'"),
        (TEXT.replace(": 7", ": yes"), "`sequence` is True"),
        (TEXT.replace(": 7", f": {2**53}"), "`sequence`"),
        (TEXT.replace("pool: acme", "pool: 5"), "`pool` is 5"),
        (TEXT.replace("pool: acme", "pool: [acme]"), "`pool`"),
        (TEXT.replace("pool: acme", "pol: acme"), "unknown key 'pol'"),
        (TEXT + "sequence: 8\n", "`sequence` is written twice"),
        ("sequence: 1\n", "`codes` is missing"),
        ("sequence: 1\ncodes: []\n", "empty list"),
        ("sequence: 1\ncodes: {}\n", "expected a list"),
        (f"sequence: 1\ncodes:\n- {CAD.code}\n", "code 1: it is 'LIC1"),
        ("sequence: 1\ncodes:\n- code: 5\n", "code 1: its `code` is 5"),
        ("sequence: 1\ncodes:\n- distribution: alpha:1\n", "code 1: its `code` is missing"),
        (TEXT + ENTRY, "line 6: code 3: it has the id .* of code 1 .line 4.; remove one"),
        (TEXT + "- code: LIC1.x\n", "code 3: the license code is cut short"),
        (TEXT + "  seats: 5\n", "code 2: it has the unknown key 'seats'"),
        (TEXT + "  distribution: alpha\n", "code 2: its `distribution`"),
        (TEXT + "  distribution: {alpha: 1}\n", "code 2: its `distribution`"),
        (TEXT + "  distribution: alpha:40^beta:11\n", "adds up to 51 seats; the code has 50"),
        (TEXT + "  borrowing_threshold: 0\n", "`borrowing_threshold` is 0"),
        (TEXT + "  borrowing_threshold: 1.1\n", "`borrowing_threshold` is 1.1"),
        (TEXT + "  borrowing_threshold: .nan\n", "`borrowing_threshold`"),
        (TEXT + "  borrowing_threshold: yes\n", "`borrowing_threshold` is True"),
        ("a: &a [x]\nb: [*a, *a]\n", "anchors"),
        ("a: *a\n", "aliases"),
        ("a: !!python/object/apply:os.system [x]\n", "tags"),
        ("[" * 100_000, "nested deeper"),
        ("sequence: 1\n---\nsequence: 2\n", "second document"),
        ("x" * (MAX_LICENSE_BYTES + 1), "larger than"),
        ("\u00e9" * (MAX_LICENSE_BYTES // 2 + 1), "larger than"),
        ("pool: \ud800", "YAML"),
    ],
)
def test_a_faulty_file_is_refused_with_the_place_and_the_reason(text: str, message: str) -> None:
    with pytest.raises(LicenseError, match=message) as caught:
        read_license_file(text, KEYS, "acme")
    assert caught.value.code == "invalid_license"


def test_numbers_that_readers_take_for_different_ones_are_refused() -> None:
    for written in ("010", "0x10", "1:30", "1_000"):
        with pytest.raises(LicenseError, match=f"line 2: `sequence` is '{written}'"):
            read_license_file(TEXT.replace(": 7", f": {written}"), KEYS, "acme")


def test_a_file_at_the_limits_is_read_in_time() -> None:
    # Read without a key, so that none has been verified yet.
    codes = [
        read_code(make_code(KEY, feature=f"feature{n % 1000}", count=100, pool="acme"), ())
        for n in range(MAX_CODES)
    ]
    text = write_license_file("acme", 7, codes)
    took_s = []
    for _ in range(2):
        begun = time.process_time()
        assert len(read_license_file(text, KEYS, "acme").codes) == MAX_CODES
        took_s.append(time.process_time() - begun)
    print(f"{MAX_CODES} codes, {len(text)} bytes: {took_s[0]:.2f} s, again {took_s[1]:.2f} s")
    # Of processor time; a fifth of this is what it takes.
    assert took_s[0] < 5.0
    assert took_s[1] < took_s[0] / 2


def test_bytes_that_are_no_text_are_refused_with_their_line() -> None:
    assert decode_license_file(TEXT.encode()) == TEXT
    with pytest.raises(LicenseError, match=r"line 2: .*not UTF-8 text: byte 0xe4"):
        decode_license_file(TEXT.encode().replace(b": 7", b": 7 # \xe4"))
    with pytest.raises(LicenseError, match="UTF-16"):
        decode_license_file(TEXT.encode("utf-16"))
    with pytest.raises(LicenseError, match="larger than"):
        decode_license_file(b" " * (MAX_LICENSE_BYTES + 1))


def test_several_faulty_codes_are_named_at_once_and_thousands_are_counted() -> None:
    two = "sequence: 1\ncodes:\n- code: x\n" + ENTRY + "- code: y\n"
    with pytest.raises(LicenseError, match=r"(?s)code 1: .*code 3: "):
        read_license_file(two, KEYS, "acme")
    with pytest.raises(LicenseError, match="and 990 more"):
        read_license_file("sequence: 1\ncodes:\n" + "- code: x\n" * 1000, KEYS, "acme")
    many = "sequence: 1\ncodes:\n" + "- code: x\n" * (MAX_CODES + 1)
    with pytest.raises(LicenseError, match="5001 entries"):
        read_license_file(many, KEYS, "acme")


@given(st.text() | st.text("codes: sequence\n-[]{}&*!7", max_size=60).map(lambda tail: TEXT + tail))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    try:
        read_license_file(text, KEYS, "acme")
    except LicenseError:
        pass
