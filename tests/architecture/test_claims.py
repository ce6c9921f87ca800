"""The page of claims names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"``(tests/[\w/.]+\.py)(?:::(\w+))?``")


def test_every_test_named_in_the_page_of_claims_exists() -> None:
    named = _NAMED.findall((ROOT / "docs" / "claims.rst").read_text(encoding="utf-8"))
    missing = []
    for file, function in named:
        path = ROOT / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if not path.exists() or (function and function not in names):
            missing.append(f"{file}::{function}")
    assert named
    assert missing == []
