"""Authorizations that move between servers, as one server takes part in it.

May import the core and this room. The issuer keeps an authorization on its record until
the move is applied, so that its seats are in use somewhere at every log index; the new
server has it on record before its seats can be granted to anybody. Source: pool
protocol, section 10; claims R8, R9, R16 to R18.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from licraft.core.commands import Adopt, Claim, HandOver
from licraft.core.outcomes import Claimed, Moved, Outcome
from licraft.core.record import Authorization
from licraft.core.state import PoolState
from licraft.errors import OutcomeUnknown
from licraft.server.clock import Clock
from licraft.server.grants import Grants
from licraft.server.proposer import Proposer
from licraft.server.record_log import SavedRecord
from licraft.server.standing import Standing
from licraft.server.tokens import ClientFields, TokenFields

log = logging.getLogger(__name__)

MAX_CLAIMS = 10_000
_AGAIN_S = 1.0
_NOBODY: ClientFields = ("", "", "", 0, "")


@dataclass(slots=True)
class _Claim:
    """An authorization that was asked for, and when (s)."""

    command: Claim
    answer: asyncio.Future[bool]
    asked_s: float


class Moves:
    """Claims, hands over and adopts authorizations for one server."""

    def __init__(
        self, server: str, grants: Grants, standing: Standing, proposer: Proposer, clock: Clock
    ) -> None:
        self._server = server
        self._now = clock.now
        self._grants = grants
        self._standing = standing
        self._proposer = proposer
        self._claims: dict[str, _Claim] = {}
        self._adoptions: dict[str, asyncio.Future[Outcome]] = {}
        # What the log tells before this process knows what it has on record.
        self._unseen: dict[str, Moved | None] = {}
        self._unseen_index = 0
        self._missed = False

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._grants.state

    # Asking for one.

    def claim(self, fields: TokenFields, issuer: str) -> asyncio.Future[bool] | None:
        """Ask the issuer for an authorization; whether it came, or None if too many are asked for.

        The future is cancelled if the issuer goes down or comes back before it has answered,
        and when nobody has asked again for a while.
        """
        now = self._now()
        claim = self._claims.get(fields.id)
        if claim is not None and now - claim.asked_s < _AGAIN_S:
            return claim.answer
        if claim is None:
            if len(self._claims) >= MAX_CLAIMS:
                return None
            command = Claim(
                fields.id,
                fields.feature,
                fields.count,
                issuer,
                self._server,
                self._grants.incarnation,
            )
            claim = _Claim(command, asyncio.get_running_loop().create_future(), now)
            self._claims[fields.id] = claim
        claim.asked_s = now
        self._proposer.attempt(claim.command)
        return claim.answer

    def tick(self) -> None:
        """Drop what nobody asks for any more."""
        if self._claims:
            old_s = self._now() - 2 * self.state.lease_s
            self._drop_claims(lambda claim: claim.asked_s < old_s)

    def adopt(self, fields: TokenFields, issuer: str, down_index: int) -> asyncio.Future[Outcome]:
        """Commit that this server takes over an authorization of a down server, once."""
        known = self._adoptions.get(fields.id)
        if known is not None:
            return known
        command = Adopt(
            fields.id,
            fields.feature,
            fields.count,
            fields.client,
            issuer,
            down_index,
            self._server,
        )
        future = self._adoptions[fields.id] = self._proposer.submit(command)
        future.add_done_callback(lambda _: self._adoptions.pop(fields.id, None))
        return future

    def forget_claims(self, issuer: str) -> None:
        """A server went down or came back: what it had been asked before it will not answer."""
        self._drop_claims(lambda claim: claim.command.issuer == issuer)

    def _drop_claims(self, over: Callable[[_Claim], bool]) -> None:
        for id in [id for id, claim in self._claims.items() if over(claim)]:
            self._claims.pop(id).answer.cancel()

    # Being asked.

    def claimed(self, event: Claimed) -> None:
        """Another server asks for an authorization: hand it over, or say that it is not here."""
        standing = self._standing
        if event.issuer != self._server or not standing.acts() or standing.recovering_s():
            return
        record = self._grants.record
        if record.leaves(event.id):
            return
        known = record.get(event.id)
        fits = known is not None and (known.feature, known.count) == (event.feature, event.count)
        given = self._grants.leave(event.id) if fits else None
        future = self._proposer.submit(
            HandOver(
                event.id,
                event.feature,
                given.count if given else 0,
                given.client if given else _NOBODY,
                self._server,
                event.server,
                event.server_incarnation,
                struck=self._grants.was_struck(event.id),
            )
        )
        if given is not None:
            future.add_done_callback(partial(self._handed, given))

    def _handed(self, given: Authorization, future: asyncio.Future[Outcome]) -> None:
        """The fate of a HandOver is known: `moved` has acted on it, or it moved nothing.

        It moves nothing any more once its server is back as the next incarnation. What is
        still unknown when the server stops stays aside.
        """
        if future.cancelled() or isinstance(future.exception(), OutcomeUnknown):
            return
        self._grants.stays(given.id)

    # What the log brings.

    def moved(self, event: Moved, index: int) -> None:
        """An authorization is another server's now, by this log index."""
        if not self._standing.incarnation:
            if event.count and self._server in (event.server, event.issuer):
                self._note(event, index)
            return
        grants = self._grants
        if event.server == self._server:
            if event.count:
                grants.receive(event.feature, event.id, event.count, event.client)
                grants.know_moves(index)
            elif event.struck:
                grants.note_struck(event.id)
            claim = self._claims.pop(event.id, None)
            if claim is not None and not claim.answer.done():
                claim.answer.set_result(event.count > 0)
        elif event.issuer == self._server and event.count:
            grants.left(event.id)
            if not event.adopted:
                grants.know_moves(index)

    def restored(self, seen_index: int) -> bool:
        """Whether this server knows all moves of the state that replaced its own.

        If not, one that it is told of later does not make up for what it missed. What it had
        seen go, up to a log index, may be on its record anew by now.
        """
        me = self.state.servers.get(self._server)
        if me is None:
            return True
        if not self._standing.incarnation:
            known_index = max(self._grants.saved_moved_index, self._unseen_index)
            self._missed = self._missed or me.moved_index > known_index
            return not self._missed
        for id, (_, index) in me.gone.items():
            if index > seen_index:
                self._grants.left(id)
        return me.moved_index <= self._grants.moved_index

    def recall(self, saved: SavedRecord, adopted: tuple[str, ...]) -> SavedRecord | None:
        """What was saved, and what the log told since; None if something of it was not seen."""
        me = self.state.servers[self._server]
        if self._missed or me.moved_index > max(saved.moved_index, self._unseen_index):
            return None
        live = {a.id: a for a in saved.authorizations}
        for id, event in self._unseen.items():
            if event is None:
                live.pop(id, None)
            elif id not in live or (live[id].feature, live[id].count) != (
                event.feature,
                event.count,
            ):
                # As `Grants.receive` does: what is not alike stays under a name of its own.
                name = id
                while name in live:
                    name += "+"
                live[name] = self._authorization(replace(event, id=name))
        for id in adopted:
            live.pop(id, None)
        return replace(saved, authorizations=tuple(live.values()))

    def begin(self) -> None:
        """This process knows its record now: what the log brings from now on is acted on."""
        self._unseen.clear()
        self._missed = False
        self._drop_claims(lambda claim: True)

    def _note(self, event: Moved, index: int) -> None:
        saved_index = self._grants.saved_moved_index
        if index <= saved_index:
            # The saved record was written after it: what it says of the id is newer.
            self._unseen.pop(event.id, None)
            return
        self._unseen[event.id] = event if event.server == self._server else None
        if not event.adopted or event.server == self._server:
            self._unseen_index = index

    def _authorization(self, event: Moved) -> Authorization:
        mint = self._grants.mint
        token = mint.seal(
            event.id,
            event.feature,
            event.count,
            self._server,
            self.state.servers[self._server].incarnation,
            event.client,
        )
        return Authorization(
            event.id, event.feature, event.count, token, event.client, self._grants.wall_s()
        )
