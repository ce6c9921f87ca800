"""Whole authorizations that move from one server to another, seats and all.

May import the rest of the core, except `apply`. Two ways: the issuer hands one over that
it has on record, or, while it is down and its seats are not reclaimed, another adopts it
for a client that was still valid when it learned so. Source: pool protocol, section 10;
claims R8, R9, R16 to R18.
"""

from __future__ import annotations

from licraft.core.commands import Adopt, Claim, ForgetMoves, HandOver
from licraft.core.outcomes import DONE, OVERTAKEN, Effect, Outcome
from licraft.core.state import PoolState, ServerState, ServerStatus

MAX_GONE = 100_000
"""How many of a server's authorizations may have moved lately."""


def can_claim(state: PoolState, command: Claim) -> bool:
    """Whether the issuer should be asked: both servers act, in these incarnations."""
    issuer = state.servers.get(command.issuer)
    server = state.servers.get(command.server)
    return (
        issuer is not None
        and issuer.acts
        and _is(server, command.server_incarnation)
        and command.issuer != command.server
    )


def hand_over(state: PoolState, index: int, command: HandOver) -> Outcome:
    """The issuer gives an authorization away; it has no effect if nobody is there to take it.

    A count of 0 says that the issuer has it not.
    """
    server = state.servers.get(command.server)
    issuer = state.servers.get(command.issuer)
    if issuer is None or command.issuer == command.server:
        return OVERTAKEN
    if not _is(server, command.server_incarnation) or server is None or server.removing:
        return OVERTAKEN
    if not command.count:
        return Outcome(Effect.DONE)
    if len(issuer.gone) >= MAX_GONE:
        return OVERTAKEN
    return _move(state, index, command, issuer, server)


def adopt(state: PoolState, index: int, command: Adopt) -> Outcome:
    """A server takes over what a down server had granted, once.

    Only while that server is down by the very entry that the client was told of: then
    nothing that it had granted can have been granted to anybody else. And only if it still
    had the authorization then: a client may not know that it moved, and be valid all the same.
    """
    server = state.servers.get(command.server)
    issuer = state.servers.get(command.issuer)
    if issuer is None or issuer.status is not ServerStatus.DOWN or issuer.reclaimed:
        return OVERTAKEN
    if issuer.down_index != command.down_index or command.id in issuer.gone:
        return OVERTAKEN
    if server is None or not server.acts or server.removing:
        return OVERTAKEN
    return _move(state, index, command, issuer, server)


def forget(state: PoolState, command: ForgetMoves) -> Outcome:
    """Moves up to a log index are so old that no client relies on a token from before.

    Those from a server that is down stay until it is reclaimed: nothing is adopted after that.
    """
    changed = False
    for server in state.servers.values():
        if server.status is ServerStatus.DOWN and not server.reclaimed:
            continue
        kept = {id: move for id, move in server.gone.items() if move[1] > command.index}
        changed = changed or len(kept) < len(server.gone)
        server.gone = kept
    return DONE if changed else OVERTAKEN


def adopted_from(server: ServerState) -> tuple[str, ...]:
    """What others adopted from a server since it is down."""
    down_index = server.down_index
    return tuple(id for id, (_, index) in server.gone.items() if 0 < down_index < index)


def _move(
    state: PoolState,
    index: int,
    command: Adopt | HandOver,
    issuer: ServerState,
    server: ServerState,
) -> Outcome:
    """Move the seats, and note at both servers that their records change at this index."""
    pool = state.table.features.get(command.feature)
    if pool is None or not 1 <= command.count <= pool.allocations.get(issuer.name, 0):
        return OVERTAKEN
    pool.move(issuer.name, server.name, command.count)
    issuer.gone[command.id] = (server.name, index)
    server.gone.pop(command.id, None)
    server.moved_index = index
    if isinstance(command, HandOver):
        issuer.moved_index = index
    return Outcome(Effect.DONE, command.count)


def _is(server: ServerState | None, incarnation: int) -> bool:
    return server is not None and server.acts and server.incarnation == incarnation
