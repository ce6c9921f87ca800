"""Strict YAML: plain data is read, and what could hurt or mislead is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.yaml_text import MAX_VALUES, YamlFault, read_document, read_yaml


def test_plain_data_is_read() -> None:
    text = 'a: 1\nb: [x, 2.5, true, null]\nc: {d: "2"}\ne: 2026-01-31\n'
    assert read_yaml(text) == {
        "a": 1,
        "b": ["x", 2.5, True, None],
        "c": {"d": "2"},
        "e": "2026-01-31",
    }
    assert read_yaml("") is None


def test_what_readers_of_yaml_disagree_about_stays_text() -> None:
    for written in (
        "010",
        "0x10",
        "0b1",
        "1_000",
        "1:30",
        "1:30.5",
        "1_0.5",
        "2026-01-31",
        "<<",
        "=",
    ):
        assert read_yaml(f"a: {written}") == {"a": written}
    for written, value in (
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("1.50", 1.5),
        ("-0.5", -0.5),
        ("7.0", 7.0),
    ):
        assert read_yaml(f"a: {written}") == {"a": value}
    assert read_yaml("a: .inf\nb: -.INF") == {"a": float("inf"), "b": float("-inf")}
    assert str(read_yaml(".NaN")) == "nan"
    assert read_yaml("a: ~\nb:\nc: Yes\nd: off") == {"a": None, "b": None, "c": True, "d": False}
    assert read_yaml('["1", \'~\', "yes"]') == ["1", "~", "yes"]


def test_the_line_of_every_key_and_item_is_known() -> None:
    document = read_document("# x\na: 1\nb:\n  - c: 1\n    d: |\n      e\n  -\n    - f\n")
    assert document.value == {"a": 1, "b": [{"c": 1, "d": "e\n"}, ["f"]]}
    for path, line in (
        ((), 2),
        (("a",), 2),
        (("b",), 3),
        (("b", 0), 4),
        (("b", 0, "c"), 4),
        (("b", 0, "d"), 5),
        (("b", 1, 0), 8),
    ):
        assert document.line(*path) == line
    # What is missing is told of where it should be.
    assert document.line("z") == 2
    assert document.line("b", 0, "z", "y") == 4
    assert read_document("").line("a") == 1


@given(st.lists(st.sampled_from(["\n", "\r\n", "\r", "\x85", "\u2028"]), max_size=5))
def test_lines_are_counted_alike_for_keys_and_for_characters(breaks: list[str]) -> None:
    before = "".join(f"#{end}" for end in breaks)
    assert read_document(f"{before}a: 1").line("a") == len(breaks) + 1
    with pytest.raises(YamlFault) as caught:
        read_document(f"{before}\0")
    assert caught.value.line == len(breaks) + 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "`a` is written twice"),
        ("a: {b: 1,\n b: 2}\n", 2, "`b` is written twice"),
        ("a: [1\nb: 2\n", 2, "did not find"),
        ("a: 'x\n", None, "end of stream"),
        ("a: &x 1\n", 1, "anchors"),
        ("x: 1\na: *x\n", 2, "aliases"),
        ("a: !!set {}\n", 1, "tags"),
        ("? [a]\n: 1\n", 1, "not plain text"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("- " * 13 + "x", 1, "nested deeper"),
        ("[" * 200_000, 1, "nested deeper"),
        ("a: \x07", 1, "not readable text: the character U[+]0007"),
        ("a: 1\nb: \ud800", 2, "not readable text: the character U[+]D800"),
        ("a: 1\n\0", 2, "UTF-16"),
        ("a:\n  " + "9" * 5000, 2, "a number of 5000 digits"),
        ("a: '\n\n\n", None, "while scanning a quoted scalar that begins in line 1"),
        ("%YAML 1.1\n---\na: 1", 1, "directives"),
        ("\ufeff%TAG ! x\n---\na: 1", 1, "directives"),
        ("a: ! b", 1, "tags"),
        ("- a\n" * (MAX_VALUES + 1), MAX_VALUES, "more than"),
    ],
)
def test_the_fault_and_its_line_are_named(text: str, line: int | None, message: str) -> None:
    with pytest.raises(YamlFault, match=message) as caught:
        read_yaml(text)
    if line is not None:
        assert caught.value.line == line
        assert f"line {line}: " in str(caught.value)


@given(st.text() | st.text("ab:-[]{}&*!|>'\"\n\t #?%@`<=1.e_", max_size=40))
def test_no_text_makes_it_fail_in_another_way(text: str) -> None:
    try:
        read_yaml(text)
    except YamlFault:
        pass
