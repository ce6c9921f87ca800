"""Connections while servers come and go: who is let in, who is told why not, who tells whom."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from pysyncobj.node import Node
from test_peers import Authority, Member, connected, frame, free_addresses, running, until
from test_peers import quick_retries as quick_retries

from licraft.replication import link as link_module
from licraft.replication import peers as peers_module
from licraft.replication.engine import Members

NAMES = ["alpha", "beta", "gamma"]


def listed(addresses: dict[str, str], names: str, index: int) -> Members:
    """The servers whose names begin with these letters."""
    return Members(index, {n: a for n, a in addresses.items() if n[0] in names}, {})


def test_a_server_that_joins_is_let_in_and_told_of_the_others() -> None:
    async def scenario() -> None:
        addresses = free_addresses([*NAMES, "delta"])
        founders = {name: addresses[name] for name in NAMES}
        old = [Member(name, founders) for name in NAMES]
        new = Member("delta", {name: addresses[name] for name in ("alpha", "delta")})
        async with running(*old):
            await connected(*old)
            async with running(new):
                with pytest.raises(AssertionError, match="did not come true"):
                    await until(lambda: new.peers.connected, 0.3)
                old[0].peers.set_members(listed(addresses, "abgd", 7))
                # Everybody hears of it from alpha, and knows whom to dial and to let in.
                await until(lambda: new.peers.connected == set(NAMES))
                assert old[2].peers.connected == {"alpha", "beta", "delta"}

    asyncio.run(scenario())


def test_one_that_was_away_learns_whom_to_let_in() -> None:
    async def scenario() -> None:
        addresses = free_addresses([*NAMES, "delta"])
        founders = {name: addresses[name] for name in NAMES}
        away = Member("beta", founders)
        gamma = Member("gamma", founders)
        delta = Member("delta", addresses)
        for member in (gamma, delta):
            member.peers.set_members(listed(addresses, "bgd", 9))
        async with running(away, gamma, delta):
            # Beta has heard nothing of delta but by gamma, and nothing from alpha.
            await until(lambda: away.peers.connected == {"gamma", "delta"})
            assert delta.peers.send(Node("beta"), {"type": "timeout_now", "term": 3})
            await until(lambda: away.received == [("delta", {"type": "timeout_now", "term": 3})])

    asyncio.run(scenario())


def test_one_that_was_removed_is_told_and_stays_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        addresses = free_addresses(NAMES)
        authority = Authority(tmp_path / "ca")
        alpha, beta, gamma = (Member(n, addresses, tls=authority.issue(n)) for n in NAMES)
        async with running(alpha, beta, gamma):
            await until(lambda: len(gamma.peers.connected) == 2 and len(alpha.peers.connected) == 2)
            alpha.peers.set_members(listed(addresses, "ab", 9))
            await until(lambda: not gamma.peers.connected)
            assert alpha.lost == ["gamma"]
            assert "'gamma' is no server of the pool" in gamma.peers.turned_away
            assert not alpha.peers.send(Node("gamma"), {"type": "timeout_now", "term": 3})
            await asyncio.sleep(0.2)  # It knocks again and again.
            assert alpha.peers.connected == {"beta"}
            assert beta.peers.connected == {"alpha"}
            # It may come back.
            alpha.peers.set_members(listed(addresses, "abg", 12))
            await until(lambda: len(gamma.peers.connected) == 2)
            assert gamma.peers.turned_away == ""

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    told = [r.getMessage() for r in caplog.records if "refuses this server" in r.getMessage()]
    assert 1 <= len(told) <= 4  # not once for each knock


def test_one_that_nobody_dials_any_more_finds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "WONDER_S", 0.05)

    async def scenario() -> None:
        addresses = free_addresses(NAMES)
        alpha, beta = (Member(name, addresses) for name in NAMES[:2])
        beta.peers.set_members(listed(addresses, "bg", 9))
        async with running(alpha, beta):
            await until(lambda: alpha.peers.turned_away)
            assert not alpha.peers.connected

    asyncio.run(scenario())


def test_founders_with_different_lists_are_told_and_one_that_joins_has_none() -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        alpha = Member("alpha", addresses)
        beta = Member("beta", {**addresses, "gamma": "127.0.0.1:1"})
        async with running(alpha, beta):
            await until(lambda: "list of servers" in beta.peers.turned_away)
        alpha = Member("alpha", addresses)
        beta = Member("beta", {**addresses, "gamma": "127.0.0.1:1"})
        beta.peers._joining = True
        async with running(alpha, beta):
            await connected(alpha, beta)

    asyncio.run(scenario())


def test_a_server_alone_listens_for_one_that_is_added() -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        alpha = Member("alpha", {"alpha": addresses["alpha"]})
        beta = Member("beta", addresses)
        alpha.peers.set_members(listed(addresses, "a", 3))
        async with running(alpha, beta):
            await until(lambda: "no server of the pool" in beta.peers.turned_away)
            alpha.peers.set_members(listed(addresses, "ab", 5))
            await connected(alpha, beta)

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"x", b"\x92\x01\x91\x92\xa4beta\xa1x", b"\x93\x01\x90\x90"])
def test_a_malformed_list_of_servers_closes_the_connection(body: bytes) -> None:
    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        alpha, beta = (Member(name, addresses) for name in addresses)
        async with running(alpha, beta):
            await connected(alpha, beta)
            link = beta.peers._links["alpha"]
            link.send(link_module.MEMBERS, body)
            link.flush()
            await until(lambda: link.closed)
            assert alpha.lost == ["beta"]
            await connected(alpha, beta)

    asyncio.run(scenario())


def test_a_refusal_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    """Who has a certificate of the pool under another name cannot make a server give up."""

    async def scenario() -> None:
        addresses = free_addresses(["alpha", "beta"])
        authority = Authority(tmp_path / "ca")
        beta = Member("beta", addresses, tls=authority.issue("beta"))
        impostor = authority.issue("gamma").context(accepts=True)

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(frame(link_module.REFUSED, b"go away"))
            await writer.drain()
            writer.close()

        host, port = addresses["alpha"].split(":")
        server = await asyncio.start_server(refuse, host, int(port), ssl=impostor)
        async with server, running(beta):
            await asyncio.sleep(0.3)
            assert beta.peers.turned_away == ""

    asyncio.run(scenario())
