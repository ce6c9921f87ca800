"""Members that change: what a restart remembers of them, and what an election then counts."""

from __future__ import annotations

from pathlib import Path

from pysyncobj.node import Node
from stock_bench import GUARDED, StockBench
from sync_bench import ALPHA, GAMMA, MEMBERS, Bench, Recorder, acknowledge
from sync_bench import clock_fixture as clock_fixture

from licraft.replication.engine import Members
from licraft.replication.messages import CHANGE

DELTA, EPSILON = Node("delta"), Node("epsilon")


class Register(Recorder):
    """A state machine and the roster in it: each command names all members."""

    def __init__(self) -> None:
        super().__init__()
        self._members: Members | None = None
        self.roster = self

    @property
    def members_index(self) -> int:
        return self._members.index if self._members is not None else 0

    def members(self) -> Members | None:
        return self._members

    def voters_after(self, command: bytes) -> frozenset[str] | None:
        return frozenset(command.decode().split(","))

    def apply(self, index: int, command: bytes) -> object:
        names = command.decode().split(",")
        self._members = Members(index, {name: f"127.0.0.1:{ord(name[0])}" for name in names}, {})
        return super().apply(index, command)


def add(bench: Bench, node: Node, *acknowledging: Node) -> None:
    """Add a member, and commit that by the answers of the others."""
    if isinstance(bench, StockBench):
        bench.node.addNodeToCluster(node)
    else:
        names = [*MEMBERS, "delta"] if node == DELTA else [*MEMBERS, "delta", "epsilon"]
        bench.node.submit(",".join(names).encode(), lambda result, reason: None, CHANGE)
    bench.turn()
    for other in acknowledging:
        acknowledge(bench, other, bench.journal[-1][1] + 1)
    bench.turn()


@GUARDED
def test_a_restart_does_not_forget_members(tmp_path: Path, guarded: bool) -> None:
    """A leader of three adds two, restarts, and asks one of the old ones for its vote."""
    bench = (
        Bench(tmp_path, machine=Register())
        if guarded
        else StockBench(tmp_path, options={"dynamicMembershipChange": True})
    )
    bench.lead()
    acknowledge(bench, GAMMA, 3)
    bench.turn()
    add(bench, DELTA, ALPHA, GAMMA)
    add(bench, EPSILON, ALPHA, GAMMA, DELTA)
    assert bench.node.otherNodes == {ALPHA, GAMMA, DELTA, EPSILON}
    assert [entry[1] for entry in bench.journal[:]] == [1, 2, 3, 4]
    again = bench.crash()
    again.turn()
    counted = len(again.node.otherNodes) + 1
    again.stand(GAMMA)
    assert counted == (4 if guarded else 3)
    assert again.node._isLeader() != guarded
