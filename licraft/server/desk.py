"""The desk where one feature's seats are given out: who waits, and what is being borrowed.

May import the core. Only values; what is done with them stands in `grants` and
`borrower`. Source: pool protocol, sections 5 and 6.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

from licraft.core.commands import Reason
from licraft.core.outcomes import Code
from licraft.core.record import Authorization
from licraft.server.tokens import ClientFields


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that gets no seats, and why."""

    code: Code


Decision = Authorization | Denial


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue; `asked` once a borrow was made with it in mind.

    `since` is its place in the order of the whole pool: the log index by which it had
    been asked for, 0 before.
    """

    id: str
    count: int
    client: ClientFields
    reason: Reason
    deadline_s: float
    patience_s: float
    decision: asyncio.Future[Decision]
    asked: bool = False
    since: int = 0


@dataclass(slots=True)
class Desk:
    """One feature on this server.

    `set_aside` seats are promised to another server by a `Release` that is under way.
    `borrow` is the id of this server's borrow, `placed` whether it was seen to be in the
    replicated state, `asking` whether the leader still looks for seats for it, `needed`
    whether somebody waits for them. After it has found no more, the next borrow is made
    not before `need_after_s` for who waits, `comfort_after_s` for the threshold alone.
    `borrowed` counts the seats that this process borrowed, by where they came from.
    """

    feature: str
    set_aside: int = 0
    queue: deque[Waiting] = field(default_factory=deque)
    denied: int = 0
    borrow: str = ""
    placed: bool = False
    asking: bool = False
    needed: bool = False
    hold: bool = False
    need_after_s: float = 0.0
    comfort_after_s: float = 0.0
    received_s: float = float("-inf")
    allocated: int = 0
    in_use_before: int = 0
    borrowed: Counter[str] = field(default_factory=Counter)

    @property
    def since(self) -> int:
        """The place of the oldest request in the order of the whole pool."""
        return self.queue[0].since if self.queue else 0

    def place(self, index: int) -> None:
        """Give everybody who was asked for a place in the order of the whole pool."""
        for waiting in self.queue:
            if waiting.asked and not waiting.since:
                waiting.since = index

    @property
    def waiting(self) -> int:
        """The seats that the queue asks for."""
        return sum(waiting.count for waiting in self.queue)
