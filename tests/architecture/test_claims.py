"""The page of claims has every claim, each with tests, and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "claims.rst").read_text(encoding="utf-8")
_NAMED = re.compile(r"``(tests/[\w/.]+\.py)(?:::(\w+))?``")
_ROW = re.compile(r"^   \* - (.+?)\n(.*?)(?=^   \* - |^\S|\Z)", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"([RB])(\d+)[a-z]?(?:-[RB]?(\d+))?")

# What the designs of the two applications claim of a system; the rest repeats or narrows these.
REDUNDANCY = {7, 8, 9, 10, 16, 17, 18, 19, 21, 22, 23, 26, 34, 40}
BALANCING = {1, *range(3, 16), *range(19, 34)}


def claims_in(text: str) -> set[str]:
    """R10, B7-B12 and R7a as the claims that they are: R10, B7 to B12, R7."""
    found = set()
    for letter, first, last in _NUMBER.findall(text):
        found |= {f"{letter}{n}" for n in range(int(first), int(last or first) + 1)}
    return found


def test_every_claim_has_a_row_with_a_test_and_nothing_is_put_off() -> None:
    rows = [row for row in _ROW.findall(PAGE) if row[0].strip() != "Claim"]
    without = [name for name, text in rows if not _NAMED.search(text)]
    assert without == []
    claimed: set[str] = set().union(*(claims_in(name) for name, _ in rows))
    wanted = {f"R{n}" for n in REDUNDANCY} | {f"B{n}" for n in BALANCING}
    assert wanted - claimed == set()
    assert "*later*" not in PAGE.lower()


def test_every_test_named_in_the_page_of_claims_exists() -> None:
    named = _NAMED.findall(PAGE)
    missing = []
    for file, function in named:
        path = ROOT / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if not path.exists() or (function and function not in names):
            missing.append(f"{file}::{function}")
    assert named
    assert missing == []
