"""Pools in one process and a clock that stands still: for our tests and our users'.

`InProcessPool` runs real license servers in virtual time; `run_virtual` is its
`asyncio.run`. Nothing of the product imports this room.
"""

from licraft.testing.clock import ManualClock
from licraft.testing.loop import VirtualLoop, run_virtual
from licraft.testing.pool import InProcessPool
from licraft.testing.shared_log import (
    COMMITTED,
    DROPPED,
    LOST,
    UNHEARD,
    Answer,
    Fate,
    ScriptedEngine,
    SharedLog,
    late,
    twice,
)

__all__ = [
    "COMMITTED",
    "DROPPED",
    "LOST",
    "UNHEARD",
    "Answer",
    "Fate",
    "InProcessPool",
    "ManualClock",
    "ScriptedEngine",
    "SharedLog",
    "VirtualLoop",
    "late",
    "run_virtual",
    "twice",
]
