"""What the nemesis uses works on this machine: wall clocks that move alone, log lines, digests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.clocks import WallClocks, library, unmoved
from chaos.ending import audit_indices, digests, log_faults
from chaos.network import both_ways, one_way
from licraft.core.audit import Gap
from licraft.replication.journal import DurableJournal

FOUND = library()


@pytest.mark.skipif(FOUND is None, reason="libfaketime not found: apt-get install faketime")
@pytest.mark.parametrize("by_s", [-86_400, 30 * 86_400])
def test_a_wall_clock_moves_and_the_clocks_of_leases_do_not(tmp_path: Path, by_s: int) -> None:
    assert FOUND is not None
    assert unmoved(WallClocks(FOUND, tmp_path), by_s) == []


def test_ways_have_a_direction() -> None:
    assert one_way(["a"], ["a", "b"]) == [("a", "b")]
    assert set(both_ways(["a"], ["b"])) == {("a", "b"), ("b", "a")}


def line(level: str, message: str) -> str:
    return json.dumps({"level": level, "message": message})


def test_only_errors_without_a_cause_are_faults_of_a_log() -> None:
    full = line("critical", "journal: No space left on device")
    text = "\n".join([line("info", "a"), line("warning", "b"), full, line("error", "c"), "Trace"])
    assert log_faults("beta", text, disk_was_full=True) == [
        f"beta: {line('error', 'c')}",
        "beta: Trace",
    ]
    assert len(log_faults("beta", text, disk_was_full=False)) == 3


def journal_of(folder: Path, server: str, terms: list[int], commit: int) -> Path:
    """A data directory whose log has entries that change nothing, in these terms."""
    folder.mkdir()
    journal = DurableJournal(folder, "acme", server)
    for index, term in enumerate(terms, 1):
        journal.add(b"\x01", index, term)
    journal.setRaftCommitIndex(commit)
    journal.sync()
    journal.abandon()
    return folder


def test_digests_are_compared_where_all_have_committed(tmp_path: Path) -> None:
    data = {
        "alpha": journal_of(tmp_path / "alpha", "alpha", [1, 1, 2], 3),
        "beta": journal_of(tmp_path / "beta", "beta", [1, 1], 2),
    }
    found = digests(data)
    assert (found.index, found.faults) == (2, ())
    assert len(set(found.by_server.values())) == 1


def test_a_state_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    data = {"alpha": journal_of(tmp_path / "alpha", "alpha", [1, 1], 2)}
    (data["alpha"] / "journal").write_bytes(b"nothing")
    (fault,) = digests(data).faults
    assert "cannot be read again" in fault


def test_the_audit_s_records_are_told_once(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_text(Gap(1, 2).line() + "\nnot a record\n", encoding="ascii")
    assert audit_indices([file]) == []
