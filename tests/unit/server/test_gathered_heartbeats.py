"""One heartbeat for many authorizations waits for all of them together, and loses none."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from licraft.errors import InvariantBroken
from licraft.server.client_calls import ClientCalls, HeartbeatsResult
from licraft.testing import run_virtual
from licraft.wire import HeartbeatAnswer, HeartbeatRequest, HeartbeatResult

Fate = Callable[[], Coroutine[Any, Any, HeartbeatResult]]


class Bench:
    """The client calls of a server that has no token on record; `fates` say what comes of each."""

    def __init__(self, fates: dict[str, Fate | HeartbeatResult]) -> None:
        self.fates = fates
        self.ended: list[str] = []
        grants = SimpleNamespace(
            record=SimpleNamespace(find=lambda token: None),
            renew=None,
            mint=SimpleNamespace(open=lambda token: SimpleNamespace(id=f"id of {token}")),
        )
        answers = SimpleNamespace(
            refusal=lambda *, recovering_too: None,
            heartbeats=lambda results, version: HeartbeatAnswer(results),
        )
        parts = {
            "pool": SimpleNamespace(state=SimpleNamespace(ttl_s=60.0)),
            "grants": grants,
            "answers": answers,
            "failover": SimpleNamespace(heartbeat=self._heartbeat),
        }
        rest = dict.fromkeys(("server", "standing", "borrower", "reports", "prover"))
        self.calls = ClientCalls(**cast(Any, parts | rest))

    def _heartbeat(
        self, token: str, confirm: object
    ) -> HeartbeatResult | Awaitable[HeartbeatResult]:
        fate = self.fates[token]
        return fate if isinstance(fate, HeartbeatResult) else self._noting(token, fate)

    async def _noting(self, token: str, fate: Fate) -> HeartbeatResult:
        try:
            return await fate()
        finally:
            self.ended.append(token)

    def beat(self) -> Awaitable[HeartbeatsResult]:
        """Send a heartbeat for every token, which must have to wait."""
        answer = self.calls.heartbeat(HeartbeatRequest(tokens=list(self.fates)))
        assert not isinstance(answer, tuple)
        return answer


def after(delay_s: float, id: str) -> Fate:
    async def fate() -> HeartbeatResult:
        await asyncio.sleep(delay_s)
        return HeartbeatResult(id, "adopted", 60.0)

    return fate


def failing(error: BaseException) -> Fate:
    async def fate() -> HeartbeatResult:
        await asyncio.sleep(0)
        raise error

    return fate


async def results(answer: Awaitable[HeartbeatsResult]) -> list[HeartbeatResult]:
    status, body = await answer
    assert status == 200
    assert isinstance(body, HeartbeatAnswer)
    return list(body.results)


def test_it_takes_as_long_as_the_longest_and_keeps_the_order() -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        now = HeartbeatResult("now", "renewed", 60.0)
        delays = {f"t{n}": float(n * 7 % 10) for n in range(1, 10)}
        bench = Bench({"at once": now} | {t: after(d, t) for t, d in delays.items()})
        began_s = loop.time()
        found = await results(bench.beat())
        assert loop.time() - began_s == pytest.approx(max(delays.values()))
        assert [result.id for result in found] == ["now", *delays]
        assert bench.ended == sorted(delays, key=delays.__getitem__)

    run_virtual(program())


@pytest.mark.parametrize("error", [RuntimeError("a fault"), asyncio.CancelledError()])
def test_what_fails_does_not_lose_the_others(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        fates = {"a": after(2.0, "a"), "b": failing(error), "c": after(1.0, "c")}
        with caplog.at_level(logging.ERROR):
            first, second, third = await results(Bench(dict(fates)).beat())
        assert (first.id, first.status) == ("a", "adopted")
        assert (second.id, second.status, second.retry_after) == ("id of b", "pending", 1.0)
        assert (third.id, third.status) == ("c", "adopted")
        assert ("a fault" in caplog.text) == isinstance(error, RuntimeError)

    run_virtual(program())


def test_a_broken_invariant_is_nobodys_pending() -> None:
    async def program() -> None:
        bench = Bench({"a": after(2.0, "a"), "b": failing(InvariantBroken("41 of 40"))})
        with pytest.raises(InvariantBroken):
            await bench.beat()

    run_virtual(program())


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_who_goes_away_leaves_nothing_waiting(turns: int) -> None:
    async def ask(bench: Bench) -> HeartbeatsResult:
        return await bench.beat()

    async def program() -> None:
        bench = Bench({name: after(60.0, name) for name in "abc"})
        asking = asyncio.ensure_future(ask(bench))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.sleep(0.1)
        assert asking.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert turns < 2 or sorted(bench.ended) == ["a", "b", "c"]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_virtual(program())
        gc.collect()


def test_an_answer_that_nobody_awaits_is_no_coroutine_left_behind(
    recwarn: pytest.WarningsRecorder,
) -> None:
    async def program() -> None:
        bench = Bench({"a": after(1.0, "a"), "b": after(2.0, "b")})
        bench.beat()
        await asyncio.sleep(3.0)
        assert bench.ended == ["a", "b"]

    run_virtual(program())
    gc.collect()
    assert [str(w.message) for w in recwarn] == []
