"""Who holds what, in the whole pool: the servers' reports, and what any server lists (R7c, R40)."""

from __future__ import annotations

from support.scenario_calls import keep, take

from licraft.testing import InProcessPool, run_virtual
from licraft.wire import Authorization, AuthorizationList, CheckoutRequest, FeatureView


def a_pool() -> InProcessPool:
    return InProcessPool(3, lease_s=3.0, ttl_s=12.0, drift=0.1, threshold=1.0)


def test_after_an_election_the_new_leader_knows_every_servers_record() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            _, seat = await pool.checkout("gamma", CheckoutRequest("cad", 2, id="G"))
            assert isinstance(seat, Authorization)
            pool.log.elect("beta")
            await pool.advance(2.5)
            pool.crash("gamma")
            for asked in ("beta", "alpha"):
                listing = await pool.server(asked).authorizations(None, None, None)
                assert isinstance(listing, AuthorizationList)
                assert [(line.id, line.server) for line in listing.authorizations] == [
                    ("G", "gamma")
                ]
                assert listing.as_of["gamma"] is not None

    run_virtual(program())


def test_lost_reports_are_told_again() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.log.ask_lost = lambda asker, asked: asker == "gamma"
            await pool.checkout("gamma", CheckoutRequest("cad", 1, id="G1"))
            await pool.advance(3.0)
            pool.log.ask_lost = lambda asker, asked: False
            _, seat = await pool.checkout("gamma", CheckoutRequest("cad", 1, id="G2"))
            await pool.advance(3.0)
            assert isinstance(seat, Authorization)
            await pool.checkin("gamma", seat.token)
            await pool.advance(3.0)
            pool.crash("gamma")
            listing = await pool.server("alpha").authorizations(None, None, "gamma")
            assert isinstance(listing, AuthorizationList)
            assert [line.id for line in listing.authorizations] == ["G1"]

    run_virtual(program())


def test_what_was_adopted_from_a_dead_server_is_listed_where_it_is_now() -> None:
    """R40: the leader's record of a server that is silent follows what moved away from it."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            await pool.advance(1.5)  # Deltas follow within a second.
            pool.crash("gamma")
            await pool.until(
                lambda: pool.server("alpha").state.servers["gamma"].down_index > 0, "it is down"
            )
            adopted = await keep(pool, "beta", token)
            assert (adopted.status, adopted.server) == ("adopted", "beta")
            for asked in ("alpha", "beta"):
                listing = await pool.server(asked).authorizations(None, None, None)
                assert isinstance(listing, AuthorizationList)
                assert listing.as_of["gamma"] is not None
                assert [(line.id, line.server) for line in listing.authorizations] == [
                    (adopted.id, "beta")
                ]

    run_virtual(program())


def test_what_was_adopted_from_a_dead_server_is_counted_once() -> None:
    """Its last report, from before, counts what is in use elsewhere now."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6}, distribution={"cad": "alpha:0^beta:0^gamma:6"})
            tokens = [await take(pool, "gamma") for _ in range(6)]
            await pool.advance(3.0)
            pool.crash("gamma")
            state = pool.server("beta").state
            await pool.until(lambda: not state.servers["gamma"].acts, "it is down")
            for token in tokens[:4]:
                assert (await keep(pool, "beta", token)).status == "adopted"
            await pool.advance(3.0)
            for name in ("alpha", "beta"):
                feature = pool.server(name).feature("cad")
                assert isinstance(feature, FeatureView)
                used = {server: part.in_use for server, part in feature.servers.items()}
                assert used == {"alpha": 0, "beta": 4, "gamma": 2}
                assert feature.in_use == 6
                seen = {server.name: server.in_use for server in pool.server(name).pool().servers}
                assert seen == used

    run_virtual(program())


def test_what_has_moved_since_a_servers_report_is_counted_once() -> None:
    """Else more would seem to be in use than there are."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6}, distribution={"cad": "alpha:0^beta:0^gamma:6"})
            tokens = [await take(pool, "gamma") for _ in range(6)]
            await pool.advance(3.0)
            for token in tokens[:4]:
                assert (await keep(pool, "beta", token)).status == "adopted"
                feature = pool.server("beta").feature("cad")
                assert isinstance(feature, FeatureView)
                assert feature.in_use == 6

    run_virtual(program())
