"""Servers without one of their rules: leases, downs, records, moves.

May import the product and the simulation's plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from support.late_words import (
    a_late_adoption_takes_no_seat_from_a_client,
    a_late_designation_takes_no_seat_from_a_client,
    a_machine_that_slept_grants_nothing_that_others_have,
    a_move_that_a_snapshot_hid_is_not_made_up_for_by_the_next,
    a_server_that_may_return_is_told_what_was_adopted,
    an_old_token_takes_no_seat_from_a_client,
    what_comes_lasts_as_long_as_its_holder_may_rely_on_it,
    what_did_not_move_stays_where_it_was,
    what_is_handed_over_is_valid_by_its_new_server_alone,
)

from licraft.core import leases
from licraft.core.apply import apply
from licraft.core.commands import Adopt, Command, Entry, ForgetMoves, ServerDown
from licraft.core.outcomes import DONE, Applied, Moved, Outcome, ServerCameUp
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.server.borrower import Borrower
from licraft.server.desk import Desk
from licraft.server.failover import Failover
from licraft.server.grants import Grants
from licraft.server.leader import Leader
from licraft.server.lease import Lease
from licraft.server.license_server import LicenseServer
from licraft.server.moves import Moves
from licraft.server.reactions import Reactions
from licraft.server.record_log import SavedRecord
from licraft.server.standing import Standing
from licraft.server.tokens import ClientFields
from licraft.testing.pool import InProcessPool
from licraft.wire import HeartbeatResult
from simulation.clients import Client
from simulation.mutation import Mutation
from simulation.plan import MOVING

# Leases, downs and reclaims


def no_lease(self: Lease, now_s: float) -> bool:
    """A server that has ever had a lease acts for ever."""
    return self.until_s > float("-inf")


_acts = Standing.acts
_may_grant = Standing.may_grant


def _was_up(self: Standing) -> bool:
    """Whether a process before this one was up, by what this one has applied of the log."""
    me = self.state.servers.get(self._config.server)
    return me is not None and me.acts and not self.incarnation


def acts_before_it_is_up(self: Standing) -> bool:
    """A server that has just come back acts on what it finds, before it has caught up."""
    return _acts(self) or _was_up(self)


def grants_before_it_is_up(self: Standing) -> bool:
    """The same of grants."""
    return _may_grant(self) or _was_up(self)


_resume = InProcessPool.resume


def wakes_unaware(self: InProcessPool, name: str) -> None:
    """The clock of leases stands still while a machine sleeps, as CLOCK_MONOTONIC does."""
    slept_from = self.engine(name)._asleep_at
    if slept_from is not None:
        self.clocks[name]._advanced_s -= self.now() - slept_from
    _resume(self, name)


def hasty_down(heard_s: float, lease_s: float, drift: float) -> float:
    """The leader gives up on a server before its lease is over."""
    return heard_s + 0.4 * lease_s


def hasty_reclaim(down_applied_s: float, ttl_s: float, drift: float) -> float:
    """What a down server left is taken at once."""
    return down_applied_s


def hasty_expiry(heard_s: float, ttl_s: float, drift: float) -> float:
    """Seats are taken from a holder before its time is over."""
    return heard_s + 0.8 * ttl_s


def without_drift(rule: Callable[[float, float, float], float]) -> Callable[..., float]:
    """A wait that believes that all clocks run alike."""
    return lambda since_s, wait_s, drift: rule(since_s, wait_s, 0.0)


_came_up = Reactions._came_up


def came_up_and_kept_the_record(self: Reactions, event: ServerCameUp) -> None:
    """A server whose seats were reclaimed goes on as if they had not been."""
    _came_up(self, replace(event, reclaimed=False))


# The log


_release = Borrower._release


def release_without_setting_aside(
    self: Borrower, desk: Desk, count: int, *rest: Any, **named: Any
) -> asyncio.Future[Outcome]:
    """What is being given away may be granted meanwhile."""
    future = _release(self, desk, count, *rest, **named)
    desk.set_aside -= count
    return future


def apply_again(state: PoolState, index: int, entry: Entry) -> Applied:
    """An entry that is committed twice takes effect twice."""
    server = state.servers.get(entry.server)
    if entry.serial and server is not None and server.requests == entry.serial:
        server.requests -= 1
    return apply(state, index, entry)


# Adoptions


_heartbeat = Failover.heartbeat


class _Confirmed(Mapping[str, int]):
    """A confirmation of whatever is asked."""

    def __init__(self, failover: Failover, token: str) -> None:
        fields = failover._grants.mint.open(token)
        holder = failover._holder(fields) if fields is not None else None
        self._index = holder.down_index if holder is not None else 0

    def __getitem__(self, id: str) -> int:
        return self._index

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def heartbeat_in_one_step(
    self: Failover, token: str, confirm: Mapping[str, int]
) -> HeartbeatResult | Awaitable[HeartbeatResult]:
    """What a down server had granted is adopted for whoever asks, without the second step."""
    return _heartbeat(self, token, _Confirmed(self, token))


def apply_changed(change: Callable[[PoolState, Command], Command]) -> Callable[..., Applied]:
    """Commands are applied as `change` makes them."""

    def changed(state: PoolState, index: int, entry: Entry) -> Applied:
        commands = tuple(change(state, command) for command in entry.commands)
        return apply(state, index, replace(entry, commands=commands))

    return changed


def down_whatever_was_renewed(state: PoolState, command: Command) -> Command:
    """On which renewal the leader waited does not count."""
    if isinstance(command, ServerDown) and command.server in state.servers:
        return replace(command, lease_serial=state.servers[command.server].lease_serial)
    return command


def adopted_again(state: PoolState, command: Command) -> Command:
    """That it was adopted before does not count."""
    if isinstance(command, Adopt) and command.issuer in state.servers:
        state.servers[command.issuer].gone.pop(command.id, None)
    return command


def adopted_from_any_down(state: PoolState, command: Command) -> Command:
    """By which entry the issuer is down does not count."""
    if isinstance(command, Adopt) and command.issuer in state.servers:
        return replace(command, down_index=state.servers[command.issuer].down_index)
    return command


_moved = Moves.moved
_restored = Moves.restored
_recall = Moves.recall
_leave = Grants.leave
_expire = Grants.expire


def came_up_with_what_was_adopted(self: Reactions, event: ServerCameUp) -> None:
    """A server that returns goes on with what others have adopted meanwhile."""
    _came_up(self, replace(event, adopted=()))


def moved_but_kept(self: Moves, event: Moved, index: int) -> None:
    """What is adopted from this server stays on its record."""
    if not (event.adopted and event.issuer == self._server):
        _moved(self, event, index)


def seats_first(self: Moves, event: Moved, index: int) -> None:
    """The seats that came with an authorization are there before it is."""
    asyncio.get_running_loop().call_soon(_moved, self, event, index)


def recall_in_any_case(
    self: Moves, saved: SavedRecord, adopted: tuple[str, ...]
) -> SavedRecord | None:
    """A record that misses a move is believed."""
    self._missed, self._unseen_index = False, 10**9
    return _recall(self, saved, adopted)


def restored_in_any_case(self: Moves, seen_index: int) -> bool:
    """A server that works goes on through a snapshot, whatever moved meanwhile."""
    return _restored(self, seen_index) or bool(self._standing.incarnation)


def restored_and_forgotten(self: Moves, seen_index: int) -> bool:
    """The next move makes up for one that a snapshot hid."""
    known, self._missed = _restored(self, seen_index), False
    return known


def renewed_while_it_leaves(
    self: Failover, token: str, confirm: Mapping[str, int]
) -> HeartbeatResult | Awaitable[HeartbeatResult]:
    """A heartbeat counts at the server that is handing its authorization over."""
    fields = self._grants.mint.open(token)
    if fields is not None and self._grants.record.leaves(fields.id):
        return HeartbeatResult(fields.id, "renewed", self._grants.state.ttl_s)
    return _heartbeat(self, token, confirm)


def expire_what_leaves(self: Grants) -> None:
    """What is being handed over expires meanwhile, and its seats are granted to others."""
    _expire(self)
    now = self._clock.now()
    leaving = [a for a in self.record if self.record.leaves(a.id) and a.expires_s <= now]
    for authorization in leaving:
        self.record.left(authorization.id)
        self.serve(self.desk(authorization.feature))


def given_and_granted(self: Grants, id: str) -> Authorization | None:
    """The seats of what is being handed over are granted to others meanwhile."""
    given = _leave(self, id)
    if given is not None:
        self.record.in_use[given.feature] -= given.count
        self.serve(self.desk(given.feature))
        self.record.in_use[given.feature] += given.count
    return given


def received_and_not_renewed(
    self: Grants, feature: str, id: str, count: int, client: ClientFields
) -> None:
    """What arrives under an id that is on record already changes nothing there."""
    if self.record.get(id) is None:
        self.grant(feature, id, count, client)


_forget_moves = Leader._forget_moves


def forget_moves_at_once(self: Leader) -> None:
    """Where an authorization has gone is forgotten though its client may not know yet."""
    self._forgotten_index = self._pool.state.index
    _forget_moves(self)


def forget_what_is_inherited(self: Leader) -> None:
    """A new leader takes all that moved before its time for old."""
    self._forgotten_index = max(self._forgotten_index, self._inherited_index)
    _forget_moves(self)


def forget_of_every_server(state: PoolState, command: ForgetMoves) -> Outcome:
    """What was adopted from a server that may return is forgotten too."""
    for server in state.servers.values():
        server.gone = {id: move for id, move in server.gone.items() if move[1] > command.index}
    return DONE


LAZY = (0.6, 0.97)
CRASHES = ("crash", "crash", "crash again", "compact", "elect")
CROWDED = {
    "servers": 3,
    "features": {"cad": 6},
    "clients": 40,
    "loyal": 0.8,
    "heartbeats": LAZY,
}
OUTAGES = ("isolate", "isolate", "split", "pause", "elect")
MOVES = {**MOVING, "servers": 3, "clients": 15, "duration_s": 60.0}
NAPS = {**MOVES, "faults": ("absent",), "calm_s": 4.0, "revives": True, "naps": 0.3}

OF_SERVERS = [
    Mutation(
        "grants without a lease",
        {(Lease, "runs"): no_lease},
        30,
        {"faults": ("isolate",), "servers": 3, "calm_s": 15.0},
        slow=True,
    ),
    Mutation(
        "acts before it has caught up",
        {
            (Standing, "acts"): acts_before_it_is_up,
            (Standing, "may_grant"): grants_before_it_is_up,
        },
        60,
        {**MOVES, "faults": CRASHES},
    ),
    Mutation(
        "measures its lease by a clock that stands still while its machine sleeps",
        {(InProcessPool, "resume"): wakes_unaware},
        scenario=a_machine_that_slept_grants_nothing_that_others_have,
    ),
    Mutation(
        "designates a server as down before its lease is over",
        {("licraft.server.leader", "down_due"): hasty_down},
        80,
        {**CROWDED, "faults": ("cut off",), "drift": 0.01, "calm_s": 30.0},
        slow=True,
    ),
    Mutation(
        "designates a server as down though it has renewed its lease",
        {("licraft.server.pool", "apply"): apply_changed(down_whatever_was_renewed)},
        scenario=a_late_designation_takes_no_seat_from_a_client,
    ),
    Mutation(
        "reclaims without waiting",
        {("licraft.server.leader", "reclaim_due"): hasty_reclaim},
        6,
        {"faults": OUTAGES, "servers": 3},
    ),
    Mutation(
        "gives seats without setting them aside",
        {(Borrower, "_release"): release_without_setting_aside},
        6,
        {"faults": ("bad log", "elect"), "servers": 3},
    ),
    Mutation(
        "keeps the record of reclaimed seats",
        {(Reactions, "_came_up"): came_up_and_kept_the_record},
        30,
        {
            **CROWDED,
            "faults": ("outage",),
            "records": ("kept",),
            "revives": True,
            "calm_s": 15.0,
        },
        slow=True,
    ),
    Mutation(
        "believes any record",
        {(SavedRecord, "trusted"): lambda *_: True},
        20,
        {"faults": CRASHES, "servers": 3},
    ),
    Mutation(
        "does not wait after the loss of its record",
        {(Standing, "recover"): lambda self: None},
        10,
        {"faults": CRASHES, "servers": 3},
    ),
    Mutation(
        "answers before the record is written",
        {(LicenseServer, "settle"): lambda self: None},
        20,
        {"faults": CRASHES, "servers": 3},
    ),
    Mutation(
        "applies a repeated entry again",
        {("licraft.server.pool", "apply"): apply_again},
        40,
        {"faults": ("bad log",), "servers": 3},
        slow=True,
    ),
    Mutation(
        "believes that all clocks run alike",
        {
            ("licraft.server.grants", "expiry"): without_drift(leases.expiry),
            ("licraft.server.leader", "down_due"): without_drift(leases.down_due),
            ("licraft.server.leader", "reclaim_due"): without_drift(leases.reclaim_due),
            ("licraft.server.standing", "recovery_end"): without_drift(leases.recovery_end),
        },
        20,
        {"drift": 0.1, "heartbeats": LAZY},
    ),
    Mutation(
        "lets authorizations expire early",
        {("licraft.server.grants", "expiry"): hasty_expiry},
        10,
        {"heartbeats": LAZY},
    ),
    Mutation(
        "adopts in one step",
        {(Failover, "heartbeat"): heartbeat_in_one_step},
        40,
        NAPS,
    ),
    Mutation(
        "a client confirms though its time is over",
        {(Client, "_confirms"): lambda self, hold: True},
        40,
        NAPS,
    ),
    Mutation(
        "adopts twice",
        {("licraft.server.pool", "apply"): apply_changed(adopted_again)},
        20,
        {**MOVES, "hedges": 0.8},
    ),
    Mutation(
        "adopts by whichever entry its issuer is down",
        {("licraft.server.pool", "apply"): apply_changed(adopted_from_any_down)},
        scenario=a_late_adoption_takes_no_seat_from_a_client,
    ),
    Mutation(
        "keeps what was adopted while it was down",
        {
            (Reactions, "_came_up"): came_up_with_what_was_adopted,
            (Moves, "moved"): moved_but_kept,
        },
        10,
        MOVES,
    ),
    Mutation(
        "has the seats before the authorization",
        {(Moves, "moved"): seats_first},
        10,
        MOVES,
    ),
    Mutation(
        "believes a record that misses a move",
        {(Moves, "recall"): recall_in_any_case},
        40,
        {**MOVES, "faults": ("orphan", "orphan", "compact"), "calm_s": 2.0, "wanders": 0.5},
    ),
    Mutation(
        "goes on through a snapshot that hides a move",
        {(Moves, "restored"): restored_in_any_case},
        40,
        {**MOVES, "faults": ("lag", "compact", "compact"), "calm_s": 1.0, "wanders": 0.5},
    ),
    Mutation(
        "takes the next move for the one that a snapshot hid",
        {(Moves, "restored"): restored_and_forgotten},
        scenario=a_move_that_a_snapshot_hid_is_not_made_up_for_by_the_next,
    ),
    Mutation(
        "renews what is being handed over",
        {(Failover, "heartbeat"): renewed_while_it_leaves},
        scenario=what_is_handed_over_is_valid_by_its_new_server_alone,
    ),
    Mutation(
        "lets what is being handed over expire",
        {(Grants, "expire"): expire_what_leaves},
        40,
        {**MOVES, "faults": ("bad log",), "calm_s": 2.0, "wanders": 0.5, "heartbeats": LAZY},
        slow=True,
    ),
    Mutation(
        "grants the seats of what is being handed over",
        {(Grants, "leave"): given_and_granted},
        10,
        {**MOVES, "wanders": 0.5},
    ),
    Mutation(
        "forgets where an authorization has gone at once",
        {(Leader, "_forget_moves"): forget_moves_at_once},
        scenario=an_old_token_takes_no_seat_from_a_client,
    ),
    Mutation(
        "forgets at once what moved before it led",
        {(Leader, "_forget_moves"): forget_what_is_inherited},
        scenario=an_old_token_takes_no_seat_from_a_client,
    ),
    Mutation(
        "forgets what was adopted from a server that may return",
        {("licraft.core.apply", "forget"): forget_of_every_server},
        scenario=a_server_that_may_return_is_told_what_was_adopted,
    ),
    Mutation(
        "lets what comes expire by an older grant of its id",
        {(Grants, "receive"): received_and_not_renewed},
        scenario=what_comes_lasts_as_long_as_its_holder_may_rely_on_it,
    ),
    Mutation(
        "loses what did not move",
        {(Moves, "_handed"): lambda *_: None},
        scenario=what_did_not_move_stays_where_it_was,
    ),
]
