"""Codes as mail and word processors leave them: mended where it is clear, named where not."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.errors import LicenseError
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import VendorPrivateKey, generate
from licraft.vendor.mending import altered_place
from licraft.vendor.paste import split_codes

KEY = generate()
KEYS = [KEY.public]


def with_hyphens(wanted: str) -> str:
    """A code that has `wanted`, hyphens, in its signature, once."""
    while True:
        code = make_code(KEY, feature="cad", count=5)
        if code.rpartition(".")[2].count("-") == len(wanted) and wanted in code[-60:]:
            return code


ONE, TWO = with_hyphens("-"), with_hyphens("--")

wraps = st.integers(20, 100)
quotings = st.sampled_from(["", "> ", ">", ">> ", "> > ", "| ", "  > ", "\t"])
line_ends = st.sampled_from(["\n", "\r\n", " \n", "=\n", "=\r\n", "\n\n", "\u00a0\n"])
arounds = st.sampled_from(
    [
        *(("", ""), ('"', '"'), ("'", "'"), ("`", "`"), ("<", ">"), ("\ufeff", ""), ("  ", ",\n")),
        *(("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u201e", "\u201c"), ("\u00ab", "\u00bb")),
    ]
)
hyphens = st.sampled_from(list("-\u2010\u2011\u2012\u2212\ufe58\ufe63\uff0d\u2013\u2014\u2015"))
invisible = st.sampled_from(list("\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u2060\u2066\ufeff"))


@given(wraps, quotings, line_ends, arounds, hyphens, invisible, st.data())
def test_what_mail_and_word_processors_do_is_undone(
    width: int,
    quoting: str,
    line_end: str,
    around: tuple[str, str],
    hyphen: str,
    dust: str,
    data: st.DataObject,
) -> None:
    code = data.draw(st.sampled_from([ONE, TWO]))
    place = data.draw(st.integers(0, len(code)))
    text = (code[:place] + dust + code[place:]).replace("-", hyphen)
    lines = textwrap.wrap(f"{around[0]}{text}{around[1]}", width, break_on_hyphens=False)
    pasted = line_end.join(f"{quoting}{line}" for line in lines)
    assert read_code(pasted, KEYS).code == code
    assert read_code(pasted, KEYS).trusted


@pytest.mark.parametrize("dash", ["\u2013", "\u2014", "\u2015"])
def test_a_long_dash_stands_for_one_hyphen_or_for_two(dash: str) -> None:
    assert read_code(ONE.replace("-", dash), KEYS).code == ONE
    assert read_code(TWO.replace("--", dash), KEYS).code == TWO
    assert read_code(TWO.replace("-", dash), KEYS).code == TWO


def test_a_long_dash_that_fits_neither_way_is_named_with_its_place() -> None:
    place = ONE.index("-") + 1
    with pytest.raises(
        LicenseError, match=rf"character {place} of .*U\+2014 EM DASH\): one hyphen"
    ):
        read_code(ONE.replace("-", "\u2014") + "AA", KEYS)


def test_what_does_not_begin_as_a_code_is_told_apart() -> None:
    for text, message in (
        (f"x{ONE}", "what follows from character 2 may be one"),
        (f"Dear\ncustomer: {ONE}", "what follows from character 11 of line 2 may be one"),
        (f'"{ONE.lower()}"', "it begins with 'lic1.', not `LIC1.`: small letters and capitals"),
        ("LIC2.a.b", "it does not begin with `LIC1.`$"),
    ):
        with pytest.raises(LicenseError, match=message):
            read_code(text, KEYS)


def test_a_full_stop_behind_a_code_is_the_sentences() -> None:
    assert read_code(f"{ONE}.", KEYS).trusted


def test_the_place_of_a_wrong_character_is_that_in_what_was_pasted() -> None:
    for text, place in (
        (f"  {ONE[:20]}+{ONE[21:]}", "character 21 of the"),
        (f"> {ONE[:20]}\n> {ONE[20:40]}\n> {ONE[40:50]}\u00e9{ONE[51:]}", "character 13 of line 3"),
    ):
        with pytest.raises(LicenseError, match=place):
            read_code(text, KEYS)


@pytest.mark.parametrize("width", [40, 76, 1000])
@pytest.mark.parametrize("quoting", ["", "> ", "  "])
def test_codes_in_one_text_are_told_apart(width: int, quoting: str) -> None:
    codes = [ONE, TWO, make_code(KEY, feature="sim", count=1)]
    lines = [line for code in codes for line in (*textwrap.wrap(code, width), "")]
    text = "\n".join(f"{quoting}{line}" for line in lines)
    assert [read_code(part, KEYS).code for part in split_codes(text)] == codes
    assert split_codes(f" \n\n{text}") == split_codes(text)
    assert split_codes("") == []
    assert split_codes(f"Dear customer\n{ONE}")[0] == "Dear customer\n"


# -- one character altered ----------------------------------------------------------------


def altered(code: str, at: int, symbol: str) -> str:
    other = symbol if code[at] != symbol else chr(ord(symbol) + 1)
    return f"{code[:at]}{other}{code[at + 1 :]}"


@pytest.mark.parametrize("at", [5, 8, 57, 130, 214, 219, 260])
def test_one_altered_character_is_found(at: int) -> None:
    if ONE[at] == ".":
        at += 1
    wrong = altered(ONE, at, "A")
    step = altered_place(wrong, KEYS)
    assert step == f"its character {at + 1} is {wrong[at]!r} and was {ONE[at]!r}"


def test_a_character_lost_added_or_swapped_is_found() -> None:
    assert ONE[57] != ONE[56]
    assert ONE[57] != ONE[58]
    lost = altered_place(ONE[:57] + ONE[58:], KEYS)
    assert lost == f"{ONE[57]!r} is missing before its character 58"
    added = f"{ONE[:57]}{altered(ONE, 57, 'Q')[57]}{ONE[57:]}"
    assert altered_place(added, KEYS) == f"its character 58, {added[57]!r}, was added"
    swapped = f"{ONE[:57]}{ONE[58]}{ONE[57]}{ONE[59:]}"
    assert altered_place(swapped, KEYS) == "its characters 58 and 59 changed places"


def test_what_is_not_one_step_from_a_code_is_not_found() -> None:
    stranger: VendorPrivateKey = generate()
    twice = altered(altered(ONE, 57, "A"), 100, "A")
    assert altered_place(twice, KEYS) is None
    assert altered_place(make_code(stranger, feature="cad", count=5), KEYS) is None
    assert altered_place("LIC1." + "A" * 5000, KEYS) is None
