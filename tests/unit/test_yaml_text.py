"""Strict YAML: plain data is read, and what could hurt or mislead is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from licraft.yaml_text import YamlFault, read_yaml


def test_plain_data_is_read() -> None:
    text = 'a: 1\nb: [x, 2.5, true, null]\nc: {d: "2"}\ne: 2026-01-31\n'
    assert read_yaml(text) == {
        "a": 1,
        "b": ["x", 2.5, True, None],
        "c": {"d": "2"},
        "e": "2026-01-31",
    }
    assert read_yaml("") is None


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
        ("a: \x07", None, "not readable text"),
        ("a: \ud800", None, "not readable text"),
        ("9" * 5000, None, "digits"),
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
