"""What administrators change is in the audit of every server, whoever was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import pytest
from support.scenario_calls import take

from licraft.core.audit import AuditRecord, chain_faults, read_line
from licraft.core.commands import Audited, Command
from licraft.core.versions import KNOWN
from licraft.errors import NotExecuted
from licraft.server.asker import ASKER, Asker
from licraft.testing import InProcessPool, run_virtual
from licraft.wire import Authorization, CheckoutRequest, Problem, ServerAnswer, ServerRequest

ANN = Asker("admin 3f2a91bc (ann@ws12)", "10.0.0.7")


@dataclass(frozen=True)
class New:
    """A command of the next version."""

    SINCE: ClassVar[int] = KNOWN + 1


@contextmanager
def asked_by(asker: Asker | None) -> Iterator[None]:
    """Ask as the API would on behalf of somebody."""
    before = ASKER.set(asker)
    try:
        yield
    finally:
        ASKER.reset(before)


def recorded(pool: InProcessPool, name: str) -> list[AuditRecord]:
    return list(pool.server(name).state.audit.recent)


def on_disk(pool: InProcessPool, name: str) -> list[AuditRecord]:
    path: Path = pool.data_dir(name) / "audit.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [read for line in lines if isinstance(read := read_line(line), AuditRecord)]


async def everywhere(pool: InProcessPool, count: int) -> list[AuditRecord]:
    """Wait until every server has so many records on disk, which must be the same."""
    await pool.until(
        lambda: all(len(on_disk(pool, name)) == count for name in pool.running),
        "the audit is on every disk",
    )
    first, *others = (on_disk(pool, name) for name in pool.running)
    assert all(other == first for other in others)
    assert list(chain_faults(first)) == []
    return first


@pytest.mark.parametrize("at", ["alpha", "beta", "gamma"])
def test_every_change_is_on_every_servers_disk_with_who_and_what(at: str) -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            server = pool.server(at)
            with asked_by(ANN):
                await pool.install({"cad": 30}, at=at)
                _, seat = await pool.checkout("gamma", CheckoutRequest("cad", id="R1"))
                assert isinstance(seat, Authorization)
                assert await server.remove_authorization("R1") is None
                assert not isinstance(await server.drain("gamma", on=True), Problem)
                assert not isinstance(await server.drain("gamma", on=False), Problem)
                joining = ServerRequest("delta", "http://d:1", "d:2")
                assert not isinstance(await server.add_server(joining), Problem)
                assert not isinstance(await server.remove_server("delta"), Problem)
                assert isinstance(await server.remove_server("nobody"), Problem)
            records = await everywhere(pool, 7)
            assert {(record.who, record.where) for record in records} == {(ANN.who, ANN.where)}
            whats = [record.what.partition("=")[0] for record in records]
            assert whats == [
                "install license license",
                "remove authorization id",
                "drain server",
                "drain server",
                "add server member",
                "remove server server",
                "remove server server",
            ]
            assert "holder=1 of cad" in records[1].what
            assert [record.outcome for record in records[-2:]] == ["done", "refused not_found"]

    run_virtual(program())


def test_what_servers_do_of_their_own_accord_is_not_in_it() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            with asked_by(ANN):
                # Seats are borrowed while somebody asks: no change of an administrator.
                await take(pool, "beta", 20)
            await pool.advance(10)
            assert recorded(pool, "alpha") == []

    run_virtual(program())


def test_a_server_that_was_down_has_it_all_when_it_is_back() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            with asked_by(ANN):
                await pool.server("alpha").drain("gamma", on=True)
                pool.crash("beta")
                await pool.server("alpha").drain("gamma", on=False)
            pool.start("beta")
            await pool.until(pool.serving, "beta is back", within_s=30.0)
            await everywhere(pool, 2)

    run_virtual(program())


def test_a_change_that_some_server_cannot_read_is_not_proposed_for_anybody() -> None:
    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.until(pool.serving)
            new = Audited(ANN.who, ANN.where, cast(Command, New()))
            with pytest.raises(NotExecuted, match="New has to wait until every server"):
                await pool.server("alpha").proposer.submit(new)
            before = pool.log.index
            await pool.server("alpha").proposer.attempt(new)
            assert pool.log.index == before

    run_virtual(program())


def test_a_removal_that_cannot_be_recorded_is_not_done() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            await pool.install({"cad": 30})
            _, seat = await pool.checkout("alpha", CheckoutRequest("cad", id="R1"))
            assert isinstance(seat, Authorization)
            for name in ("beta", "gamma"):
                pool.crash(name)
            with asked_by(ANN):
                refused = await pool.server("alpha").remove_authorization("R1")
            assert refused is not None
            assert refused.status == 503
            assert pool.server("alpha").grants.record.get("R1") is not None

    run_virtual(program())


def test_an_order_waits_for_the_end_of_an_election() -> None:
    """One that outlasts the lease: the server takes no client then, but the order is done."""

    async def program() -> None:
        async with InProcessPool(3) as pool:
            pool.log.cut("gamma", "alpha")
            pool.log.cut("gamma", "beta")
            await pool.until(lambda: not pool.server("gamma").may_grant(), "its lease is over")
            asked = asyncio.get_running_loop().create_task(
                pool.server("gamma").drain("beta", on=True)
            )
            await pool.advance(1.0)
            assert not asked.done()
            pool.log.heal()
            answer = await asked
            assert isinstance(answer, ServerAnswer), answer
            assert answer.state == "draining"

    run_virtual(program())


def test_an_order_is_refused_where_no_majority_is_heard() -> None:
    async def program() -> None:
        async with InProcessPool(3) as pool:
            pool.log.isolate("gamma")
            await pool.until(lambda: not pool.server("gamma").may_grant(), "its lease is over")
            begun_s = pool.now()
            answer = await pool.server("gamma").drain("beta", on=True)
            assert isinstance(answer, Problem)
            assert (answer.status, answer.code) == (503, "no_quorum")
            assert pool.now() - begun_s < 3.0

    run_virtual(program())
