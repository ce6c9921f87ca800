"""The house stays as it was drawn: who may import whom, and what the core must not touch.

Everything is read from the source, nothing is imported, so that an import hidden
in a function or behind TYPE_CHECKING counts like any other.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "licraft"
MAX_LINES = 600

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "yaml_text": (),
    "certificates": (),
    "config_file": (),
    "wire": ("core.outcomes",),
    "settings": ("config_file", "errors", "yaml_text"),
    "pool_files": ("certificates", "config_file", "errors", "settings", "yaml_text"),
    "core": (),
    "vendor": ("core", "errors", "wire", "yaml_text"),
    "client": ("core.ids", "core.outcomes", "errors", "wire"),
    "replication": ("core", "errors", "wire"),
    "server": ("core", "errors", "replication", "settings", "vendor", "wire"),
    "api": ("core.outcomes", "errors", "server", "settings", "wire"),
    "testing": (
        "api",
        "client",
        "core",
        "errors",
        "replication",
        "server",
        "settings",
        "vendor",
        "wire",
    ),
}
"""Room or module -> what of licraft it may import beside itself; `cli` may import all."""

# Nothing here reads a clock, a random source, a file or a socket.
PURE_LIBRARY = """
    __future__ abc base64 binascii bisect collections copy dataclasses datetime enum fractions
    functools hashlib heapq hmac itertools json math operator re statistics string struct types
    typing zlib
"""

# The last two differ from process to process: replicated state must not depend on them.
IMPURE_CALLS = {"open", "print", "input", "eval", "exec", "compile", "__import__", "hash", "id"}
CLOCKS = {"now", "utcnow", "today", "fromtimestamp", "utcfromtimestamp"}


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path) -> str:
    """`licraft/core/ids.py` is in the room `core`; `licraft/wire.py` is the module `wire`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST, package: str = "licraft") -> Iterator[str]:
    """Full names of all imported modules; what is imported from a package counts as its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            if base == "licraft":
                yield from (f"licraft.{alias.name}" for alias in node.names)
            else:
                yield base


def faults_of_import(room: str, name: str) -> str | None:
    """Why `room` may not import the module `name`, or None."""
    if not name.startswith("licraft.") or name == "licraft.__version__":
        return None
    target = name.removeprefix("licraft.")
    allowed = (room, *MAY_IMPORT.get(room, ()))
    if any(target == entry or target.startswith(f"{entry}.") for entry in allowed):
        return None
    return f"{room} may not import {name}"


def impurities(tree: ast.AST) -> Iterator[str]:
    """What the core must not do, found in one module."""
    for name in imports(tree):
        top = name.partition(".")[0]
        if top not in ("licraft", *PURE_LIBRARY.split()):
            kind = "impure" if top in sys.stdlib_module_names else "third-party"
            yield f"imports {name} ({kind})"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in IMPURE_CALLS:
                yield f"line {node.lineno}: calls {node.func.id}()"
        elif isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            yield f"line {node.lineno}: reads a clock with .{node.attr}"


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])


def test_every_room_imports_only_what_it_may() -> None:
    found = []
    for path in sources(PACKAGE):
        room = room_of(path)
        if room in ("cli", "__init__", "__main__"):
            continue
        assert room in MAY_IMPORT, f"{path}: a new room; say in MAY_IMPORT what it may import"
        for name in imports(parsed(path), package_of(path)):
            if fault := faults_of_import(room, name):
                found.append(f"{path.relative_to(ROOT)}: {fault}")
    assert found == []


def test_nobody_imports_the_command_line() -> None:
    importers = [
        str(path.relative_to(ROOT))
        for path in sources(PACKAGE)
        if room_of(path) not in ("cli", "__main__")
        and any(
            f"{name}.".startswith("licraft.cli.")
            for name in imports(parsed(path), package_of(path))
        )
    ]
    assert importers == []


def test_the_core_is_pure() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in sources(PACKAGE / "core")
        for fault in impurities(parsed(path))
    ]
    assert found == []


def test_only_replication_knows_pysyncobj() -> None:
    users = {
        room_of(path)
        for path in sources(PACKAGE)
        if any(name.partition(".")[0] == "pysyncobj" for name in imports(parsed(path)))
    }
    assert users <= {"replication"}


@pytest.mark.parametrize("folder", ["licraft", "tests", "benchmarks"])
def test_no_file_is_too_long_for_a_sitting(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(ROOT / folder)
    }
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_every_room_and_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(PACKAGE)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import time", "imports time (impure)"),
        ("def f():\n  from os import path", "imports os (impure)"),
        ("import msgspec", "imports msgspec (third-party)"),
        ("from datetime import datetime\nx = datetime.now()", "line 2: reads a clock with .now"),
        ("x = open('f')", "line 1: calls open()"),
        ("x = hash('a')", "line 1: calls hash()"),
    ],
)
def test_the_purity_check_finds_what_it_looks_for(source: str, fault: str) -> None:
    assert list(impurities(ast.parse(source))) == [fault]


@pytest.mark.parametrize(
    ("room", "source", "allowed"),
    [
        ("core", "from licraft.core.ids import x", True),
        ("core", "from licraft import wire", False),
        ("core", "from licraft.errors import x", False),
        ("client", "import licraft.core.outcomes", True),
        ("client", "from licraft.core import state", False),
        ("client", "def f():\n  import licraft.replication.engine", False),
        ("server", "from licraft.api import service", False),
        ("api", "from licraft import __version__", True),
        ("wire", "from .core.state import x", False),
        ("vendor", "from licraft.wire import x", True),
    ],
)
def test_the_import_check_finds_what_it_looks_for(room: str, source: str, allowed: bool) -> None:
    faults = [faults_of_import(room, name) for name in imports(ast.parse(source))]
    assert faults != []
    assert all(fault is None for fault in faults) == allowed
