"""What becomes of a proposed command, told to its proposer exactly once.

May import pysyncobj's reasons, asyncio and `errors`.
"""

from __future__ import annotations

import asyncio

from pysyncobj import FAIL_REASON

from licraft.errors import NotExecuted, OutcomeUnknown, Overloaded, ProposalError


class Proposal:
    """The callback of one command: sets the proposer's future once, and never raises (S10)."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[object]) -> None:
        self.future = future

    def __call__(self, result: object, reason: int) -> None:
        if self.future.done():
            return
        if reason == FAIL_REASON.SUCCESS:
            self.future.set_result(result)
        else:
            self.future.set_exception(error_of(reason))


_NOT_EXECUTED = {
    FAIL_REASON.MISSING_LEADER: "there was no leader to append it",
    FAIL_REASON.NOT_LEADER: "the server that it was sent to was not the leader",
    FAIL_REASON.REQUEST_DENIED: "the leader refused it",
    FAIL_REASON.DISCARDED: "another entry was committed at its log index",
}


def error_of(reason: int) -> ProposalError:
    """What a FAIL_REASON proves about a command, for every reason that there is or will be.

    The reasons listed are given before a command is appended, or when another entry was
    committed in its place. After all others, LEADER_CHANGED first of all, the command may
    be in the log of the next leader, and was in two of five cases in simulation.
    """
    if reason == FAIL_REASON.QUEUE_FULL:
        return Overloaded("not committed: the queue of the leader or of this server is full")
    why = _NOT_EXECUTED.get(reason)
    if why is not None:
        return NotExecuted(f"not committed: {why}; propose it again")
    return OutcomeUnknown(
        f"the leader changed before this server saw the outcome (reason {reason}); "
        "propose it again with the same serial"
    )


def is_finished(callback: object) -> bool:
    """Whether nobody waits for a callback of PySyncObj's any more."""
    return isinstance(callback, Proposal) and callback.future.done()
