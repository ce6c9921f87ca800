"""Who takes part in the pool: servers join, count, leave and are gone, by committed commands.

May import the rest of the core but `apply`, whose rules call these. Nothing here looks at a
clock or a connection: when a step is due is the leader server's to know.

A server's way in is `AddServer` (joining: it gets the log and counts for nothing), then
`PromoteServer` once it has the log (new: it counts in majorities, and comes up like any other).
Its way out is `RemoveServer` (removing: it counts no more, its lease is not renewed, its
clients go elsewhere), then the rules of any silent server, `ServerDown` and `Reclaim`, and
`DropServer` when nobody can rely on its seats any more: they go to the free pool.

In between an administrator may `Drain` one: it goes on acting, grants nothing new, and gives
its seats and its clients to the others; it counts in majorities as before.

A name is used once. A server that was cut off since before another left may still count it,
and would take the vote of a new one of that name, which does not know what the old one had
promised: two leaders (the seeded simulation of the engine finds it within 70 seeds).

Each of these commands but `Drain` changes the set of voters by one server at most, which is
what lets the engine take them one at a time without two majorities that do not meet (Ongaro's
thesis, 4.1).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from licraft.core.commands import AddServer, Drain, DropServer, MembershipCommand, RemoveServer
from licraft.core.outcomes import DONE, OVERTAKEN, Code, Effect, Outcome
from licraft.core.state import PoolState, ServerState, ServerStatus

MAX_SERVERS = 9
MAX_PAST_NAMES = 1000

_GONE = Outcome(Effect.REFUSED, code=Code.NOT_FOUND)
_TAKEN = Outcome(Effect.REFUSED, code=Code.INVALID_REQUEST)
_FULL = Outcome(Effect.REFUSED, code=Code.LIMIT_REACHED)


def voters_after(state: PoolState, command: MembershipCommand) -> frozenset[str]:
    """The servers that count in majorities once this command is applied to this state."""
    # Seats decide nothing about members, so only the servers are copied.
    after = replace(state, servers=deepcopy(state.servers))
    change(after, state.index + 1, command)
    return frozenset(after.voters)


def change(state: PoolState, index: int, command: MembershipCommand) -> Outcome:
    """Apply one change of members to `state.servers`; seats are the caller's to move.

    Repeated, each has no further effect.
    """
    if isinstance(command, AddServer):
        outcome = _add(state, command)
    else:
        server = state.servers.get(command.server)
        if server is None:
            return _GONE
        if isinstance(command, RemoveServer):
            outcome = _remove(state, server)
        elif isinstance(command, DropServer):
            outcome = _drop(state, server)
        else:
            outcome = _promote(server)
    if outcome.effect is Effect.DONE:
        state.members_index = index
        state.membership += 1
    return outcome


def drain(state: PoolState, command: Drain) -> Outcome:
    """Apply the wish that a server be empty, or its end; seats are the caller's to move.

    Repeated, it has no further effect. One that is being removed is beyond it.
    """
    server = state.servers.get(command.server)
    if server is None:
        return _GONE
    if server.removing:
        return _TAKEN
    if server.drained is command.on:
        return OVERTAKEN
    server.drained = command.on
    if server.acts:
        server.status = ServerStatus.DRAINING if command.on else ServerStatus.UP
    if state.preferred_leader == server.name:
        state.preferred_leader = ""
    state.membership += 1
    return DONE


def is_idle(server: ServerState) -> bool:
    """Whether nobody can rely on anything that a server granted: it never did, or was reclaimed."""
    return server.status is ServerStatus.JOINING or server.available


def _add(state: PoolState, command: AddServer) -> Outcome:
    """A new server joins, last in the order of leader priority."""
    new = command.member
    known = state.servers.get(new.name)
    if known is not None:
        same = (known.api, known.peer) == (new.api, new.peer) and not known.removing
        return OVERTAKEN if same else _TAKEN
    if not state.formed or not new.name:
        return OVERTAKEN
    if new.name in state.past_names:
        return _TAKEN
    if any(s.api == new.api or s.peer == new.peer for s in state.servers.values()):
        return _TAKEN
    if len(state.servers) >= MAX_SERVERS or len(state.past_names) >= MAX_PAST_NAMES:
        return _FULL
    state.servers[new.name] = ServerState(new.name, new.api, new.peer, status=ServerStatus.JOINING)
    return DONE


def _promote(server: ServerState) -> Outcome:
    """A joining server counts from now on."""
    if server.status is not ServerStatus.JOINING or server.removing:
        return OVERTAKEN
    server.status = ServerStatus.NEW
    return DONE


def _remove(state: PoolState, server: ServerState) -> Outcome:
    """A server is on its way out; the last one that counts stays."""
    if server.removing:
        return OVERTAKEN
    if server.votes and state.voters == [server.name]:
        return _FULL
    server.removing = True
    if state.preferred_leader == server.name:
        state.preferred_leader = ""
    return DONE


def _drop(state: PoolState, server: ServerState) -> Outcome:
    """A server that was leaving is gone."""
    if not server.removing or not is_idle(server):
        return OVERTAKEN
    state.past_names += (server.name,)
    del state.servers[server.name]
    return DONE
