"""The seats of one client at random: its own keeper and granter, beside a dumb account of each.

Servers answer, refuse, are slow, lose answers after they have done what was asked, go down,
send the client on, or say something odd; the client's machine is suspended; time is virtual.
Checked: what each answer does to each seat, who is told, what is asked with which token and
given back, and that nobody relies on a seat that the pool might give to somebody else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.pools import NAMES
from support.profiles import examples, notices
from support.seat_oracle import Account, DumbPool
from support.strategies import servers

from licraft.client import renewing
from licraft.client.grants import Granter
from licraft.client.keeper import Keeper
from licraft.client.routes import Routes
from licraft.client.seats import Hold
from licraft.client.tenure import SeatState, Tenure
from licraft.client.transport import Answer, Gate, NoAnswer, Transport
from licraft.errors import LicraftError
from licraft.testing.loop import VirtualLoop
from licraft.wire import (
    CheckinAnswer,
    CheckinRequest,
    CheckoutRequest,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Problem,
)

pytestmark = pytest.mark.timeout(400)  # a failing history takes a while to shrink

TTL_S = 20.0
SEATS = 4
HOP_S = 0.002
UNDER_WAY_S = 5 * HOP_S
"""So old may a request be when a server has it: others may have refused it before."""
URLS = {f"http://{name}:7700": name for name in NAMES}

moods = st.sampled_from(["up", "up", "slow", "refuses", "mute", "no_quorum", "overloaded"])
oddities = st.sampled_from(
    ["breaks", "breaks", "lost", "pending", "strange id", "short ttl", "one less", "no json"]
)
pauses_s = st.sampled_from([0.1, 0.5, 1.5, 3.0, 7.0, 7.0, 12.0, 30.0])
SLOW_S = 3.0
TOLD_S = 1.5
"""Within that whoever has lost a seat is told."""
UNHEARD_S = 8.0
"""Within that a server that took a request is believed not to answer, and another one asked."""


@dataclass(eq=False)
class Holding:
    """A seat in the client's hands, and what it should be."""

    hold: Hold
    account: Account
    told: int = 0


class SeatMachine(RuleBasedStateMachine):
    """One client and three servers."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.suspended_s, self.suspended_at_s = 0.0, float("-inf")
        self.pool = DumbPool(NAMES, SEATS, TTL_S)
        self.moods = dict.fromkeys(NAMES, "up")
        self.odd: dict[str, str] = {}
        self.held: list[Holding] = []
        self.asking: list[asyncio.Task[None]] = []
        self.owed: set[str] = set()
        self.struck: set[str] = set()
        self.in_flight = 0
        self.tries: list[renewing._Try] = []
        self.asked_to_confirm: set[tuple[str, str]] = set()
        self.loop.run_until_complete(self.begin())

    async def begin(self) -> None:
        routes, wire = Routes(list(URLS)), cast(Transport, self)
        chance = random.Random(0).random
        self.keeper = Keeper(
            wire, routes, self.now, client_id="c", read_timeout_s=5.0, chance=chance
        )
        self.granter = Granter(wire, routes, self.keeper, self.now, read_timeout_s=5.0)
        renewer = self.keeper._renewer
        heard = renewer._hear

        def hear(
            this: renewing._Try, question: renewing._Question, outcome: Answer | NoAnswer
        ) -> Any:
            self.heard(this, question, outcome)
            return heard(this, question, outcome)

        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(renewer, "_hear", hear)

    def teardown(self) -> None:
        async def end() -> None:
            for task in self.asking:
                task.cancel()
            await asyncio.gather(*self.asking, return_exceptions=True)
            await self.keeper.stop()
            await self.keeper.settled(0.0)

        self.loop.run_until_complete(end())
        self.loop.close()

    def now(self) -> float:
        """The one clock of this world."""
        return self.loop.time() + self.suspended_s

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.loop.faults, self.loop.faults
        for task in self.asking:
            if task.done():
                task.result()
        self.asking = [task for task in self.asking if not task.done()]

    # -- the way to the servers, in place of `Transport` ------------------------------------------

    connect_timeout_s = 1.0

    def unheard(self, url: str) -> bool:
        return False

    async def ask(
        self,
        method: str,
        url: str,
        path: str,
        content: bytes = b"",
        *,
        read_timeout_s: float,
        gate: Gate | None = None,
        **_: Any,
    ) -> Answer | NoAnswer:
        """What comes of one request; what a server has done may stay unheard."""
        name, sent_s = URLS[url], self.now()
        if path == "/v1/checkins":
            self.owed -= set(msgspec.json.decode(content, type=CheckinRequest).tokens)
        await asyncio.sleep(HOP_S)
        mood = self.moods[name]
        if mood == "refuses" or (gate is not None and not gate.enter(url)):
            return NoAnswer(url, sent_s, "refused", may_have_arrived=False)
        if mood in ("no_quorum", "overloaded"):
            status = 503 if mood == "no_quorum" else 429
            return Answer(url, sent_s, status, _json(Problem(status, mood, "", retry_after=1.0)))
        odd = self.odd.pop(name, "") if path == "/v1/heartbeats" else ""
        if self.odd.get(name) == "breaks":
            odd = self.odd.pop(name)
        status, body = self.served(name, path, content, odd)
        if odd == "breaks":
            return NoAnswer(url, sent_s, "broke", may_have_arrived=True, broken=True)
        takes_s = {"slow": SLOW_S, "mute": float("inf")}.get(mood, HOP_S)
        self.in_flight += 1
        try:
            await asyncio.sleep(min(takes_s, read_timeout_s))
        finally:
            self.in_flight -= 1
        if takes_s >= read_timeout_s:
            return NoAnswer(url, sent_s, "late", may_have_arrived=True, late=True)
        return Answer(url, sent_s, status, b"nonsense" if odd == "no json" else body)

    def served(self, name: str, path: str, content: bytes, odd: str) -> tuple[int, bytes]:
        """A server does what it is asked."""
        match path:
            case "/v1/heartbeats":
                request = msgspec.json.decode(content, type=HeartbeatRequest)
                self.look_at(name, request)
                answer = self.pool.heartbeat(self.now(), name, request)
                return 200, _json(self.changed(answer, request.tokens, odd))
            case "/v1/authorizations":
                wish = msgspec.json.decode(content, type=CheckoutRequest)
                granted = self.pool.checkout(self.now(), name, wish)
                problem = Problem(409, "no_seats", "none is free")
                return (409, _json(problem)) if granted is None else (201, _json(granted))
            case "/v1/checkins":
                tokens = msgspec.json.decode(content, type=CheckinRequest).tokens
                self.look_at_returned(tokens)
                return 200, _json(CheckinAnswer([t for t in tokens if self.pool.checkin(t)], []))
        return 200, b"{}"

    def changed(self, answer: HeartbeatAnswer, tokens: list[str], odd: str) -> HeartbeatAnswer:
        """The answer with something odd about it."""
        results = list(answer.results)
        first = results[0]
        match odd:
            case "lost":
                self.pool.checkin(tokens[0])
                self.struck.add(tokens[0].split("|")[0])
                results[0] = HeartbeatResult(first.id, "lost", code="removed")
            case "pending":
                id = tokens[0].split("|")[0]
                results[0] = HeartbeatResult(id, "pending", retry_after=2.0, server=NAMES[2])
            case "strange id":
                results[0] = HeartbeatResult("another", "renewed", TTL_S)
            case "short ttl" if first.ttl:
                results[0] = msgspec.structs.replace(first, ttl=first.ttl / 2)
            case "one less":
                del results[0]
        return HeartbeatAnswer(results)

    def look_at(self, name: str, request: HeartbeatRequest) -> None:
        """Only seats that are still valid are renewed, under the tokens that they have now.

        And only what the server has asked for is confirmed, by who was valid when it heard so.
        """
        accounts = {held.account.token: held.account for held in self.held}
        for token in request.tokens:
            if token in accounts:
                accounts[token].look(self.now())
                on_its_way = self.loop.time() <= self.suspended_at_s + UNDER_WAY_S
                assert on_its_way or self.now() <= accounts[token].ended_s + UNDER_WAY_S
        assert len(set(request.tokens)) == len(request.tokens)
        for id in request.confirm:
            assert (name, id) in self.asked_to_confirm
            self.asked_to_confirm.discard((name, id))

    def look_at_returned(self, tokens: list[str]) -> None:
        """Nothing is given back that its holder relies on."""
        for held in self.held:
            held.account.look(self.now())
            assert held.account.token not in tokens or held.account.ended

    # -- what the account makes of it --------------------------------------------------------------

    def heard(
        self, this: renewing._Try, question: renewing._Question, outcome: Answer | NoAnswer
    ) -> None:
        """An answer is about to be taken into account."""
        if isinstance(outcome, NoAnswer) or outcome.status != 200:
            return
        try:
            results = msgspec.json.decode(outcome.body, type=HeartbeatAnswer).results
        except msgspec.DecodeError:
            return
        if len(results) != len(question.tokens):
            return
        if not any(this is known for known in self.tries):
            self.tries.append(this)
        attempt = next(number for number, known in enumerate(self.tries) if known is this)
        accounts = {held.account.token: held.account for held in self.held}
        for token, result in zip(question.tokens, results, strict=True):
            account = accounts.get(token)
            if account is None:
                continue  # It has another token by now.
            if result.status == "confirm" and result.id in question.confirm:
                account.settled.add(attempt)
            elif result.status == "confirm":
                self.asked_to_confirm.add((URLS[outcome.url], result.id))
            back = account.hear(self.now(), attempt, outcome.url, outcome.sent_at, result)
            if back is not None:
                self.owed.add(back)

    async def get(self, wish: CheckoutRequest) -> None:
        """Check a seat out, and have it kept alive from then on."""
        try:
            hold = await self.granter.grant(wish)
        except LicraftError:
            return
        now = hold.tenure()
        account = Account(hold.id, hold.token, hold.url, hold.server, now.sent_at, now.ttl_s)
        held = Holding(hold, account)

        def tell() -> None:
            held.told += 1

        hold.on_lost = tell
        self.held.append(held)
        self.keeper.add(hold)

    def valid(self) -> list[Holding]:
        for held in self.held:
            held.account.look(self.now())
        return [held for held in self.held if not held.account.ended]

    # -- what may happen ---------------------------------------------------------------------------

    @precondition(lambda self: len(self.held) + len(self.asking) < 8)
    @rule(wait_s=st.sampled_from([0.0, 0.0, 4.0]), id=st.sampled_from([None, None, "my-own"]))
    def check_out(self, wait_s: float, id: str | None) -> None:
        if id and any(task.get_name() == id for task in self.asking):
            return

        async def ask() -> None:
            wish = CheckoutRequest("cad", wait=wait_s, id=f"{id}{len(self.held)}" if id else None)
            self.asking.append(asyncio.create_task(self.get(wish), name=id or "unnamed"))

        self.loop.run_until_complete(ask())
        self.run(0.1)

    @rule()
    def check_out_unheard(self) -> None:
        """A grant whose answer is lost is asked for again, or given back: it is not left over."""
        owned = {held.account.id for held in self.valid()}
        if self.asking or {seat.id for seat in self.pool.alive(self.now())} != owned:
            return
        for server in NAMES:
            self.change(server, "mute")
        self.check_out(0.0, None)
        for server in NAMES:
            self.change(server, "up")
        self.odd.clear()
        self.run(UNHEARD_S)
        owned = {held.account.id for held in self.valid()}
        assert {seat.id for seat in self.pool.alive(self.now())} == owned

    @precondition(lambda self: self.valid())
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.valid()))
        assert held.hold.returned()
        held.account.end(self.now(), "returned")

        async def drop() -> None:
            self.keeper.drop(held.hold)
            self.keeper.give_back_soon([held.hold.token], held.hold.url)

        self.loop.run_until_complete(drop())
        self.run(0.1)

    @rule(seconds=pauses_s)
    def wait(self, seconds: float) -> None:
        self.run(seconds)

    @rule(seconds=st.sampled_from([1.0, 5.0, 15.0, 60.0]))
    def suspend(self, seconds: float) -> None:
        """The machine is suspended: its clock goes on, its timers do not."""
        self.suspended_s += seconds
        self.suspended_at_s = self.loop.time()

    @precondition(lambda self: self.valid())
    @rule(seconds=st.sampled_from([12.0, 15.0]))
    def suspend_in_flight(self, seconds: float) -> None:
        """The answer to a heartbeat comes when the time is over, and the heartbeat's is not."""
        for server in NAMES:
            self.change(server, "slow")
        self.odd.clear()
        for _ in range(20):
            if not self.in_flight:
                self.run(0.5)
        self.suspend(seconds)
        self.run(SLOW_S)

    @rule(server=servers, mood=moods)
    def change(self, server: str, mood: str) -> None:
        self.moods[server] = mood
        self.pool.silent = {name for name in NAMES if self.moods[name] in ("refuses", "mute")}
        self.pool.down &= self.pool.silent

    @rule(server=servers)
    def go_down(self, server: str) -> None:
        """A server dies, and is known to be down."""
        self.change(server, "refuses")
        self.pool.down.add(server)

    @rule(server=servers, odd=oddities, seconds=st.sampled_from([0.0, 7.0]))
    def be_odd(self, server: str, odd: str, seconds: float) -> None:
        self.odd[server] = odd
        self.run(seconds)

    @precondition(lambda self: self.valid())
    @rule(
        server=st.none() | servers,
        mood=moods | st.just("slow"),
        odd=oddities,
        left_s=st.sampled_from([0.3, 1.0, 2.0, 3.5]),
    )
    def nearly_lose(self, server: str | None, mood: str, odd: str, left_s: float) -> None:
        """Nobody answers until the time is nearly over, then one does: often its own server."""
        server = server or URLS[self.valid()[0].account.url]
        for name in NAMES:
            self.change(name, "refuses")
        first = min(held.account.sent_s + held.account.ttl_s for held in self.valid())
        self.run(max(0.0, first - self.now() - left_s))
        self.change(server, mood)
        if left_s == 1.0:
            self.odd[server] = odd
        self.pool.down = {name for name in NAMES if name != server and left_s > 1.0}
        self.run(left_s + SLOW_S)

    @rule(but=st.none() | servers)
    def calm(self, but: str | None) -> None:
        """All servers work, or all but one: whoever has the time for it keeps its seat.

        And nobody has a seat of which the client does not know.
        """
        for server in NAMES:
            self.change(server, "up")
        if but is not None:
            self.go_down(but)
        self.odd.clear()
        safe = [h for h in self.valid() if h.account.sent_s + h.account.ttl_s > self.now() + 12.0]
        self.run(2 * TTL_S)
        for held in safe:
            assert not held.account.ended
            assert held.hold.tenure().state is SeatState.HELD
        valid = self.valid()
        lost = [h for h in self.held if h not in valid and h.account.ended != "returned"]
        self.run(TOLD_S)
        assert all(held.told == 1 for held in lost)
        owned = {held.account.id for held in self.valid()}
        assert {seat.id for seat in self.pool.alive(self.now())} <= owned
        assert not self.owed

    # -- what always holds -------------------------------------------------------------------------

    @invariant()
    def each_is_what_its_account_says(self) -> None:
        for held in self.held:
            tenure, account = held.hold.tenure(), held.account
            account.look(self.now())
            if not account.ended and tenure.reason in account.perhaps:
                account.end(self.now(), tenure.reason)
            if not account.ended:
                assert tenure.state in (SeatState.HELD, SeatState.SUSPENDED)
                known = (held.hold.id, held.hold.token, held.hold.url, held.hold.server)
                assert known == (account.id, account.token, account.url, account.server)
                assert tenure.valid_until == pytest.approx(account.sent_s + account.ttl_s)
            elif account.ended == "returned":
                assert tenure.state is SeatState.RETURNED
            else:
                assert (tenure.state, tenure.reason) == (SeatState.LOST, account.ended)
            assert held.told <= (account.ended not in ("", "returned"))

    @invariant()
    def nobody_relies_on_what_another_may_have(self) -> None:
        alive = {seat.id for seat in self.pool.alive(self.now())}
        for held in self.held:
            if not held.hold.tenure().ended:
                # Who was struck off by an administrator learns it with the next heartbeat.
                assert held.hold.id in alive | self.struck


def _json(body: object) -> bytes:
    return msgspec.json.encode(body)


TestSeats = SeatMachine.TestCase
TestSeats.settings = examples(1)


# The machine finds what it looks for.


def _from_when_it_was_heard(self: Tenure, now: float, sent_at: float, ttl_s: float) -> Tenure:
    """The time that the answer was under way counts too."""
    return self.at(now) if self.ended else Tenure(now, ttl_s)


def _whatever_it_was(self: Tenure, now: float, sent_at: float, ttl_s: float) -> Tenure:
    """A seat that was lost is held again."""
    return Tenure(sent_at, ttl_s).at(now)


def _but_not_its_token(self: Hold, url: str, id: str, token: str, server: str | None) -> None:
    """It is elsewhere now, under the token that it had."""
    self.url, self.id, self.server = url, id, server or self.server


async def _nothing(self: object, *_: object) -> bool:
    """It is forgotten to be done."""
    return True


def _without_a_word(self: Keeper) -> None:
    """Nobody is told of what is lost."""
    for hold in [hold for hold in self._renewals if hold.tenure().ended]:
        self.drop(hold)


Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {
    "it counts from when the answer came": lambda patch: patch.setattr(
        Tenure, "renewed", _from_when_it_was_heard
    ),
    "a late answer brings it back": lambda patch: patch.setattr(
        Tenure, "renewed", _whatever_it_was
    ),
    "who is not valid any more is renewed and confirms": lambda patch: patch.setattr(
        renewing._Try, "valid", lambda self: list(self.waiting)
    ),
    "a new token is not taken": lambda patch: patch.setattr(Hold, "moved", _but_not_its_token),
    "what was granted unheard is left over": lambda patch: patch.setattr(
        Granter, "_disown", _nothing
    ),
    "what came too late is kept": lambda patch: patch.setattr(Keeper, "_give_back", _nothing),
    "nobody is told of a loss": lambda patch: patch.setattr(Keeper, "_bury", _without_a_word),
    "what one server denies is not asked of another": lambda patch: patch.setattr(
        Hold, "unanswered", lambda self: self.lost("unanswered")
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_noticed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    assert notices(SeatMachine)
