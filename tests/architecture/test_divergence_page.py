"""The page of divergences has every fault, and names tests and code that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "divergence.rst").read_text(encoding="utf-8")
REPLICATION = ROOT / "licraft" / "replication"

FAULTS = [f"S{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 11)]

_TEST = re.compile(r"``(tests/[\w/]+\.py)::(\w+)``")
_CODE = re.compile(r"``([a-z]\w+)\.(\w[\w.]*)``")
_ROW = re.compile(r"(?ms)^   \* - (.*?)(?=^   \* - |^\S|\Z)")


def rows() -> dict[str, str]:
    """Id -> what its row says."""
    split = (row.partition("\n") for row in _ROW.findall(PAGE))
    return {first: rest for first, _, rest in split if first in FAULTS}


def tree_of(path: Path) -> ast.Module:
    """A module's syntax; an empty one if there is no such file."""
    return ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])


def names_in(tree: ast.Module) -> Iterator[str]:
    """Classes, their methods, functions and constants, as `Class.method` or `name`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def contract_tests() -> Iterator[tuple[str, str]]:
    """File and name of each contract test."""
    for path in sorted((ROOT / "tests" / "contract").glob("test_*.py")):
        for name in names_in(tree_of(path)):
            if name.startswith("test_"):
                yield str(path.relative_to(ROOT)), name


def test_every_fault_has_a_row_with_a_test_of_its_own() -> None:
    assert list(rows()) == FAULTS
    without = [
        fault
        for fault, text in rows().items()
        if not any(name.startswith(f"test_{fault.lower()}_") for _, name in _TEST.findall(text))
    ]
    assert without == []


def test_every_name_of_code_in_the_page_exists() -> None:
    named = set(_CODE.findall(PAGE)) - {("licraft", "replication")}
    assert len(named) > len(FAULTS)
    missing = [
        f"{module}.{name}"
        for module, name in sorted(named)
        if name not in set(names_in(tree_of(REPLICATION / f"{module}.py")))
    ]
    assert missing == []


def test_the_tests_know_the_same_faults_as_the_page() -> None:
    ids = {name.split("_")[1].upper() for _, name in contract_tests() if _ID.match(name)}
    assert ids == set(FAULTS)


_ID = re.compile(r"test_[sl]\d+_")
