"""The shape of PySyncObj 0.3.17: the names, seams and options that the engine is built on.

An upgrade that changes a fact fails here first. The faults, each with the guard that
answers it, are in the files beside this one.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.serializer import Serializer
from pysyncobj.version import VERSION
from stock_bench import GUARDED, StockBench
from sync_bench import Bench
from sync_bench import clock_fixture as clock_fixture

from licraft.errors import InvariantBroken
from licraft.replication import library
from licraft.replication.guards import GuardedSyncObj
from licraft.replication.journal import DurableJournal
from licraft.replication.library import ATTRIBUTES, METHODS, check_library
from licraft.replication.messages import NO_OP, REGULAR
from licraft.replication.pysyncobj_engine import EngineConfig
from licraft.replication.snapshot import SnapshotStore

ROOM = Path(library.__file__).parent
PRIVATE = re.compile(r"\b_SyncObj__\w+")
OURS = GuardedSyncObj.__mro__[: GuardedSyncObj.__mro__.index(SyncObj)]
"""The classes that stand around SyncObj."""


# Names.


def test_version_and_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VERSION == library.PINNED_VERSION
    check_library()
    monkeypatch.delattr(SyncObj, "_SyncObj__sendNextNodeIdx")
    with pytest.raises(InvariantBroken, match="_SyncObj__sendNextNodeIdx"):
        check_library()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", "0.3.18")
    with pytest.raises(InvariantBroken, match=r"pip install pysyncobj==0\.3\.17"):
        check_library()


def test_every_private_name_of_the_sources_is_checked_at_start() -> None:
    sources = [path for path in ROOM.glob("*.py") if path.name != "library.py"]
    used = {name for path in sources for name in PRIVATE.findall(path.read_text("utf-8"))}
    checked = {name for name in METHODS + ATTRIBUTES if PRIVATE.fullmatch(name)}
    assert used
    assert used - checked == set()


def test_every_override_is_checked_at_start() -> None:
    """An override of what is not there would never be called."""
    defined = {name for kind in OURS for name in vars(kind) if not name.startswith("__")}
    overridden = {name for name in defined if hasattr(SyncObj, name)}
    assert "_onTick" in overridden
    assert overridden <= set(METHODS)
    assert {name for name in defined if PRIVATE.fullmatch(name)} <= overridden


def test_no_name_of_ours_is_the_librarys_by_accident(tmp_path: Path) -> None:
    theirs = set(vars(StockBench(tmp_path).node)) | set(dir(SyncObj))
    ours = {
        node.attr
        for kind in OURS
        for node in ast.walk(ast.parse(Path(inspect.getfile(kind)).read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }
    assert "_rank" in ours
    assert ours & theirs <= set(ATTRIBUTES)


@pytest.mark.parametrize("missing", ["_SyncObj__raftNextIndex", "_SyncObj__noopIDx"])
def test_an_attribute_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    node = StockBench(tmp_path).node
    library.check_member(node)
    delattr(node, missing)
    with pytest.raises(InvariantBroken, match=missing):
        library.check_member(node)


# Seams.


def test_the_journal_is_made_by_a_name_of_the_module(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.node._SyncObj__raftLog is bench.journal
    assert pysyncobj.syncobj.createJournal.__module__ == "pysyncobj.journal"


def test_journal_and_serializer_have_the_methods_that_ours_have() -> None:
    wanted = {name for name in vars(Journal) if not name.startswith("__")}
    assert wanted <= set(vars(DurableJournal))
    wanted = {name for name in vars(Serializer) if not name.startswith("_")}
    assert wanted <= set(vars(SnapshotStore))


def test_type_bytes_and_reasons() -> None:
    kinds = pysyncobj.syncobj._COMMAND_TYPE
    assert (kinds.REGULAR, kinds.NO_OP) == (REGULAR, NO_OP)
    states = pysyncobj.syncobj._RAFT_STATE
    assert (states.FOLLOWER, states.CANDIDATE, states.LEADER) == (0, 1, 2)


def test_the_clock_is_a_name_of_the_module(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert 0.5 < bench.node._SyncObj__raftElectionDeadline - bench.now < 1.0


# Options.


def test_every_option_is_set_and_none_is_misspelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(library, "SyncObjConf", given.update)
    Bench.configure(tmp_path)
    assert set(given) == set(vars(SyncObjConf()))


def test_a_misspelt_option_is_ignored_unless_it_is_ours(tmp_path: Path) -> None:
    misspelt: dict[str, Any] = {"leaderFallbackTimeuot": 1.0}
    assert SyncObjConf(**misspelt).leaderFallbackTimeout == 30.0
    misspelt = {"leader_fallback_seconds": 1.0}
    with pytest.raises(TypeError, match="leader_fallback_seconds"):
        library.configuration(tmp_path, **misspelt)
    with pytest.raises(TypeError, match="leader_fallback_seconds"):
        EngineConfig("pool", "alpha", {}, tmp_path, **misspelt)


_STOCK = """
from pysyncobj import SyncObjConf
SyncObjConf(raftMinTimeout=5.0, raftMaxTimeout=1.0).validate()
"""

_OURS = """
import asyncio, sys
from pathlib import Path
from licraft.errors import LicraftError
from licraft.replication.pysyncobj_engine import EngineConfig, start_engine

class Machine:
    def apply(self, index, command): ...
    def snapshot(self): return b""
    def restore(self, index, snapshot): ...

async def start():
    members = {"alpha": "127.0.0.1:0"}
    config = EngineConfig(
        "pool", "alpha", members, Path(sys.argv[1]), election_timeout_s=(5.0, 1.0)
    )
    engine = await start_engine(config, Machine(), None, lambda: None)
    await engine.close()

try:
    asyncio.run(start())
except (LicraftError, ValueError):
    sys.exit(3)
"""


def status_of(code: str, directory: Path, *, optimized: bool) -> int:
    run = [sys.executable, *(["-O"] if optimized else []), "-c", code, str(directory)]
    return subprocess.run(run, capture_output=True, timeout=60, check=False).returncode


@GUARDED
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, guarded: bool) -> None:
    """PySyncObj checks them by assertions, which `python -O` leaves out."""
    code = _OURS if guarded else _STOCK
    assert status_of(code, tmp_path / "checked", optimized=False) == (3 if guarded else 1)
    assert status_of(code, tmp_path / "optimized", optimized=True) == (3 if guarded else 0)
