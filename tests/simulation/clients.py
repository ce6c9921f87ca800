"""Clients that go as far as the rules let them, and do what no well-behaved one would.

May import the client's tenure rule, `wire` and this folder. A client relies on a seat for
as long as the rule lets it and not a moment less. Source: pool protocol, section 2.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from msgspec.structs import replace

from licraft.client.tenure import Tenure
from licraft.testing.chance import waiting_s
from licraft.wire import (
    Authorization,
    CheckinRequest,
    CheckoutRequest,
    ClientInfo,
    HeartbeatAnswer,
    HeartbeatRequest,
    HeartbeatResult,
    Problem,
)
from simulation.habits import Habits
from simulation.holders import Hold, Holders, SafetyBroken
from simulation.network import Network, NoAnswer

_CONFIRMATIONS = 3


class Client:
    """Takes seats, keeps them for a while by heartbeats, gives them back or just goes."""

    def __init__(
        self,
        name: str,
        habits: Habits,
        network: Network,
        holders: Holders,
        rng: random.Random,
        gained: Callable[[], None],
    ) -> None:
        self.name = name
        self.habits = habits
        self.stopping = self.idle = False
        self._network = network
        self._holders = holders
        self._random = rng
        self._gained = gained
        self._number = 0
        self._home = rng.choice(network.pool.names)

    async def live(self, features: list[str]) -> None:
        """Do so until told to stop."""
        rng = self._random
        while not self.stopping:
            self.idle = True
            await asyncio.sleep(self.habits.until_next_s(rng))
            self.idle = False
            holds = []
            for _ in range(rng.randint(1, self.habits.seats)):
                hold = await self._take(rng.choice(features))
                if hold is None:
                    break
                holds.append(hold)
            if holds:
                await self._keep(holds)

    def _now(self) -> float:
        return self.habits.clock.now()

    def _servers(self, home: str) -> list[str]:
        """Where to go: to the home of a seat, then to the others."""
        if self.habits.loyal:
            return [self._home]
        others = [name for name in self._network.pool.names if name != home]
        self._random.shuffle(others)
        return [home, *others]

    async def _take(self, feature: str) -> Hold | None:
        rng = self._random
        self._number += 1
        request = CheckoutRequest(
            feature,
            count=rng.choice((1, self.habits.greed)),
            wait=rng.choice((0.0, 0.0, rng.uniform(0.5, self._network.pool.ttl_s))),
            id=f"{self.name}.{self._number}",
            client=ClientInfo(id=self.name),
        )
        if self.habits.reuses and rng.random() < self.habits.reuses:
            # No client may do so: another request, under the id of an earlier one.
            request = replace(request, id=f"{self.name}.{rng.randint(1, self._number)}")
        for server in self._servers(self._home):
            if self.habits.renames:
                request = replace(request, id=f"{self.name}.{self._number}.{server}")
            for _ in range(rng.randint(1, 2)):
                sent_s = self._now()
                try:
                    answer = await self._network.call(
                        server, "checkout", request, request.wait + 2.0
                    )
                except NoAnswer:
                    continue
                if isinstance(answer, Authorization):
                    return self._granted(answer, server, sent_s)
                assert isinstance(answer, Problem)
                self.habits.tallies[answer.code] += 1
                break
        return None

    def _granted(self, answer: Authorization, server: str, sent_s: float) -> Hold:
        hold = Hold(
            answer.id,
            answer.feature,
            answer.count,
            self.habits.clock,
            Tenure(sent_s, answer.ttl).at(self._now()),
            answer.token,
            server,
            server,
        )
        self._home = server
        self._holders.add(hold)
        self.habits.tallies["granted"] += 1
        self.habits.tell(
            self.name, f"has {answer.count} of {answer.feature} by {server}: {answer.id}"
        )
        self._gained()
        return hold

    async def _keep(self, holds: list[Hold]) -> None:
        """Renew what is held until enough of it, then give it back, or go without a word."""
        rng, habits, ttl_s = self._random, self.habits, self._network.pool.ttl_s
        leave_s = self._now() + waiting_s(rng, habits.stay_s)
        pause_s = ttl_s * habits.heartbeat_part
        while self._now() < leave_s and not self.stopping:
            holds = [hold for hold in holds if self._keeps(hold)]
            if not holds:
                return
            if rng.random() < habits.naps:
                habits.tallies["slept"] += 1
                pause_s = rng.uniform(ttl_s, 2 * ttl_s)
            due_s = self._now() + max(0.01, min(leave_s - self._now(), pause_s))
            for hold in holds:
                hold.due_s = due_s
            await asyncio.sleep(due_s - self._now())
            for hold in holds:
                hold.due_s = float("inf")
            asking = [hold for hold in holds if hold.relied_on or habits.revives]
            pause_s = ttl_s * habits.heartbeat_part
            if asking:
                pause_s = min(pause_s, await self._renew(asking) or pause_s)
        for hold in holds:
            hold.wanted = False
        returned = [hold for hold in holds if not hold.tenure.ended and rng.random() < 0.8]
        for hold in returned:
            hold.tenure = hold.tenure.returned(self._now())
        if returned:
            await self._give_back(rng.choice(self._servers(self._home)[:2]), returned)

    def _keeps(self, hold: Hold) -> bool:
        """Whether its holder still hopes: who revives asks once more when its time is over."""
        grace_s = self._network.pool.ttl_s if self.habits.revives else 0.0
        return not hold.tenure.ended and self._now() < hold.tenure.valid_until + grace_s

    async def _give_back(self, server: str, holds: list[Hold]) -> None:
        request = CheckinRequest([hold.token for hold in holds])
        try:
            await self._network.call(server, "checkin", request, 2.0)
        except NoAnswer:
            pass

    async def _renew(self, holds: list[Hold]) -> float:
        """Renew what is held, by one call to each server; returns when to ask again (s).

        That is 0 unless it is sooner than usual.
        """
        homes = sorted({hold.home for hold in holds})
        groups = [[hold for hold in holds if hold.home == home] for home in homes]
        self.habits.tallies["several at once"] += len(holds) > len(groups)
        after_s = await asyncio.gather(
            *(self._renew_group(*g) for g in zip(homes, groups, strict=True))
        )
        return min((s for s in after_s if s), default=0.0)

    async def _renew_group(self, home: str, holds: list[Hold]) -> float:
        """Send a heartbeat to a server, else to the others, or to several."""
        rng, habits = self._random, self.habits
        servers = self._servers(home)
        if len(servers) > 1 and rng.random() < habits.wanders:
            servers = [*servers[1:], servers[0]]
        if len(servers) > 1 and rng.random() < habits.hedges:
            habits.tallies["asked several"] += 1
            several = [self._renew_at(holds, name) for name in servers[: rng.randint(2, 3)]]
            answers = await asyncio.gather(*several)
            return max((answer for answer in answers if answer is not None), default=0.0)
        for server in servers:
            answer = await self._renew_at(holds, server)
            if answer is not None:
                return answer
        return 0.0 if habits.patient else rng.uniform(0.5, 1.0)

    async def _renew_at(self, holds: list[Hold], server: str) -> float | None:
        """Ask one server, and confirm what it asks for; None if it is of no use.

        Only who is still valid when the question has arrived confirms (section 10).
        """
        habits, after_s = self.habits, 0.0
        if habits.forges and self._random.random() < habits.forges:
            await self._forge(holds[0], server)
        asking, confirm = holds, dict[str, int]()
        for _ in range(_CONFIRMATIONS):
            sent_s = self._now()
            tokens = [hold.token for hold in asking]
            request = HeartbeatRequest(tokens, client=self.name, confirm=confirm)
            try:
                answer = await self._network.call(server, "heartbeat", request, habits.timeout_s)
            except NoAnswer:
                return None
            if not isinstance(answer, HeartbeatAnswer):
                habits.tallies[answer.code] += 1
                return None
            old = sum((hold.server, hold.id) in self._holders.forgotten for hold in asking)
            habits.tallies["asked by a token from before a forgotten move"] += old
            confirm, late = {}, []
            for hold, result in zip(asking, answer.results, strict=True):
                if result.down_index is not None and self._confirms(hold):
                    habits.tallies["confirm"] += 1
                    habits.tallies["confirm a recovery"] += result.down_index < 0
                    confirm[hold.id] = result.down_index
                elif self._heard(hold, result, server, sent_s):
                    late.append(hold)
                after_s = max(after_s, result.retry_after or 0.0)
            if late:
                habits.tallies["renewed too late"] += len(late)
                await self._give_back(server, late)
            asking = [hold for hold in asking if hold.id in confirm]
            if not asking:
                break
        return after_s

    async def _forge(self, hold: Hold, server: str) -> None:
        """Ask for more than was granted, by a token with one character changed."""
        at = self._random.randrange(len(hold.token))
        other = self._random.choice("abcdefgh".replace(hold.token[at], ""))
        token = hold.token[:at] + other + hold.token[at + 1 :]
        request = HeartbeatRequest([token], client=self.name, confirm={})
        try:
            answer = await self._network.call(server, "heartbeat", request, self.habits.timeout_s)
        except NoAnswer:
            return
        if isinstance(answer, HeartbeatAnswer):
            self.habits.tallies["forged"] += 1
            status = answer.results[0].status
            if status not in ("lost", "pending"):
                raise SafetyBroken(f"{server} answers {status} to a forged token")

    def _confirms(self, hold: Hold) -> bool:
        """Whether its holder may say that it was valid when it was told of the down (section 10).

        Who relies again on seats whose time was over may not.
        """
        return hold.relied_on

    def _heard(self, hold: Hold, result: HeartbeatResult, server: str, sent_s: float) -> bool:
        """Take a result into account; whether it was a renewal that came too late."""
        self.habits.tallies[result.status] += 1
        now = self._now()
        if result.status != "renewed":
            self.habits.tell(self.name, f"hears {result.status} of {hold.id} from {server}")
        if result.status == "lost":
            hold.tenure = hold.tenure.lost(now, result.code or "")
        elif result.status in ("renewed", "adopted", "converted"):
            assert result.ttl is not None
            if self.habits.revives and sent_s >= hold.tenure.sent_at:
                hold.tenure = Tenure(sent_s, result.ttl)
            else:
                hold.tenure = hold.tenure.renewed(now, sent_s, result.ttl)
            hold.token = result.token or hold.token
            hold.server = hold.home = self._home = server
            self._holders.add(hold)
            self._gained()
            return hold.tenure.ended
        elif result.status == "pending" and result.server in self._network.pool.names:
            hold.home = result.server
        return False
