"""Servers that fail and come back, and what becomes of their seats and clients (4, 5, 9, 10)."""

from __future__ import annotations

from datetime import date

import pytest
from support.scenario_calls import allocated, beat, fate_of, keep, refused, take

from licraft.core.commands import ServerDown
from licraft.core.state import ServerStatus
from licraft.testing import COMMITTED, InProcessPool, late, run_virtual
from licraft.wire import CheckoutRequest, Problem

LEASE_S, TTL_S, DRIFT = 3.0, 12.0, 0.1


def a_pool(servers: int = 3) -> InProcessPool:
    return InProcessPool(servers, lease_s=LEASE_S, ttl_s=TTL_S, drift=DRIFT, threshold=1.0)


def status_of(pool: InProcessPool, server: str) -> ServerStatus:
    """What the leader holds a server to be."""
    return pool.server(pool.leader).state.servers[server].status


def reclaimed(pool: InProcessPool, server: str) -> bool:
    return pool.server(pool.leader).state.servers[server].reclaimed


def test_a_silent_server_is_down_after_its_lease_and_reclaimed_after_ttl_by_the_slowest_clock() -> (
    None
):
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.log.isolate("gamma")
            cut_s = pool.now()
            left_s = pool.server("gamma").standing.lease_remaining_s()
            await pool.until(lambda: status_of(pool, "gamma") is ServerStatus.DOWN)
            down_s = pool.now()
            assert cut_s + left_s < down_s <= cut_s + LEASE_S * (1 + DRIFT) + 0.3
            await pool.until(lambda: reclaimed(pool, "gamma"))
            assert pool.now() - down_s + 0.06 >= TTL_S * (1 + DRIFT)
            assert pool.now() - down_s <= TTL_S * (1 + DRIFT) + 0.3

    run_virtual(program())


def test_a_new_leader_counts_all_waits_anew() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.crash("gamma")
            await pool.until(lambda: status_of(pool, "gamma") is ServerStatus.DOWN)
            await pool.advance(10.0)
            pool.log.elect("beta")
            elected_s = pool.now()
            await pool.until(lambda: reclaimed(pool, "gamma"))
            assert pool.now() - elected_s >= TTL_S * (1 + DRIFT)

    run_virtual(program())


def test_a_designation_that_arrives_after_a_newer_renewal_has_no_effect() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            pool.log.fate = fate_of(ServerDown, late(3.0))
            pool.log.isolate("gamma")
            await pool.advance(LEASE_S * (1 + DRIFT) + 0.5)
            pool.log.heal()
            await pool.advance(6.0)
            assert status_of(pool, "gamma") is ServerStatus.UP
            assert pool.server("gamma").state.servers["gamma"].incarnation == 1
            assert pool.serving()

    run_virtual(program())


def test_a_server_that_was_paused_until_it_was_reclaimed_comes_back_with_an_empty_record() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.pause("gamma")
            await pool.until(lambda: reclaimed(pool, "gamma"))
            await take(pool, "alpha", 6, wait=5)
            pool.resume("gamma")
            await pool.until(pool.serving)
            assert len(pool.server("gamma").grants.record) == 0
            lost = await beat(pool, "gamma", token)
            assert (lost.status, lost.code) == ("lost", "no_seats")

    run_virtual(program())


def test_a_server_that_crashed_and_was_reclaimed_starts_with_an_empty_record_at_once() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            await take(pool, "gamma", 2)
            pool.crash("gamma")
            await pool.until(lambda: reclaimed(pool, "gamma"))
            pool.start("gamma")
            await pool.until(pool.serving, within_s=3.0)
            assert len(pool.server("gamma").grants.record) == 0
            await take(pool, "gamma", 2)

    run_virtual(program())


def test_a_killed_process_comes_back_with_its_record() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.crash("gamma")
            pool.start("gamma")
            await pool.until(pool.serving, within_s=3.0)
            assert (await beat(pool, "gamma", token)).status == "renewed"
            assert pool.server("gamma").grants.record.in_use["cad"] == 2

    run_virtual(program())


def test_after_an_orderly_stop_the_record_is_believed_even_after_a_reboot() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "alpha", 2)
            await pool.stop("alpha")
            await pool.advance(0.1)
            assert pool.leader != "alpha"
            pool.start("alpha", reboot=True)
            await pool.until(pool.serving, within_s=3.0)
            assert (await beat(pool, "alpha", token)).status == "renewed"

    run_virtual(program())


def lose_file(pool: InProcessPool) -> None:
    (pool.data_dir("gamma") / "record.log").unlink()


def damage_file(pool: InProcessPool) -> None:
    path = pool.data_dir("gamma") / "record.log"
    path.write_bytes(path.read_bytes()[:-20] + b"\n{]\n")


def nothing(pool: InProcessPool) -> None:
    """The file is whole, but what was not yet on the disk is gone without a trace."""


@pytest.mark.parametrize(
    ("harm", "reboot"), [(lose_file, False), (damage_file, False), (nothing, True)]
)
def test_a_server_whose_record_is_lost_gives_nothing_away_for_ttl(
    harm: object, reboot: bool
) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.crash("gamma")
            assert callable(harm)
            harm(pool)
            pool.start("gamma", reboot=reboot)
            started_s = pool.now()
            await pool.until(lambda: pool.server("gamma").status() == "recovering", within_s=3.0)
            problem = await refused(pool, "gamma")
            assert (problem.status, problem.code) == (503, "recovering")
            assert problem.retry_after is not None
            assert 0 < problem.retry_after <= TTL_S * (1 + DRIFT)
            assert problem.servers is not None
            assert (await keep(pool, "gamma", token)).status == "renewed"
            assert pool.server("gamma").grants.record.in_use["cad"] == 2
            await pool.until(pool.serving)
            assert pool.now() - started_s >= TTL_S * (1 + DRIFT)
            assert (await keep(pool, "gamma", token)).status == "renewed"

    run_virtual(program())


@pytest.mark.parametrize("orderly", [False, True])
def test_a_server_that_ends_while_it_recovers_goes_on_recovering(orderly: bool) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            await take(pool, "gamma", 2)
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering", within_s=3.0)
            if orderly:
                await pool.stop("gamma")
            else:
                pool.crash("gamma")
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").status() not in ("starting", "no_quorum"))
            # The record that it has now is not what it had granted.
            assert pool.server("gamma").status() == "recovering"

    run_virtual(program())


def test_while_recovering_the_tokens_of_other_servers_are_not_taken() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "beta")
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering")
            pending = await beat(pool, "gamma", token)
            assert pending.status == "pending"
            assert pending.retry_after

    run_virtual(program())


def test_while_recovering_no_more_is_readmitted_than_the_server_has() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            old = await take(pool, "gamma", 2)
            await pool.advance(TTL_S * (1 + DRIFT) + 1)  # Expired: its seats go to somebody else.
            new = await take(pool, "gamma", 2)
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering")
            assert (await keep(pool, "gamma", new)).status == "renewed"
            assert (await beat(pool, "gamma", old)).status == "pending"

    run_virtual(program())


def test_a_recovering_server_does_not_believe_a_token_whose_time_was_over() -> None:
    """Its seats were somebody else's already; only who is still valid confirms."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            old = await take(pool, "gamma", 2)
            await pool.advance(TTL_S * (1 + DRIFT) + 1)
            await take(pool, "gamma", 2)
            pool.crash("gamma")
            pool.start("gamma", reboot=True)
            await pool.until(lambda: pool.server("gamma").status() == "recovering")
            for stale in (None, 0, 1, pool.log.index):
                confirm = {} if stale is None else {"X": stale}
                answer = await pool.heartbeat("gamma", old, confirm=confirm)
                assert not isinstance(answer, Problem)
                assert (answer[0].status, answer[0].ttl) == ("confirm", None)
            assert len(pool.server("gamma").grants.record) == 0

    run_virtual(program())


def test_a_client_of_a_server_that_was_reclaimed_is_converted_by_another() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.crash("gamma")
            await pool.until(lambda: reclaimed(pool, "gamma"))
            moved = await beat(pool, "beta", token)
            assert (moved.status, moved.server, moved.ttl) == ("converted", "beta", TTL_S)
            assert moved.token is not None
            assert moved.token != token
            assert (await beat(pool, "beta", moved.token)).status == "renewed"
            # The answer may have been lost: the same heartbeat gets the same authorization.
            again = await beat(pool, "beta", token)
            assert (again.status, again.token) == ("converted", moved.token)
            assert pool.server("beta").grants.record.in_use["cad"] == 2

    run_virtual(program())


def test_without_a_seat_it_is_pending_while_the_issuer_may_return_and_lost_once_reclaimed() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            others = await take(pool, "alpha", 4, wait=5)
            pool.crash("gamma")
            assert (await beat(pool, "beta", token)).status == "pending"
            await pool.until(lambda: status_of(pool, "gamma") is ServerStatus.DOWN)
            assert (await beat(pool, "beta", token)).status == "confirm"
            while not reclaimed(pool, "gamma"):
                await beat(pool, "alpha", others)
                await pool.advance(2.0)
            assert (await beat(pool, "alpha", others)).status == "renewed"
            await take(pool, "alpha", 2, wait=5)
            lost = await beat(pool, "beta", token)
            assert (lost.status, lost.code) == ("lost", "no_seats")

    run_virtual(program())


def test_all_servers_crash_and_holders_go_on() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            tokens = {name: await take(pool, name, 2) for name in pool.names}
            for name in pool.names:
                pool.crash(name)
            await pool.advance(2.0)
            for name in pool.names:
                pool.start(name, replayed=3)
            await pool.until(pool.serving, within_s=5.0)
            for name, token in tokens.items():
                assert (await beat(pool, name, token)).status == "renewed"
            assert allocated(pool) == {"alpha": 2, "beta": 2, "gamma": 2}
            assert pool.server("beta").license().sequence == 1

    run_virtual(program())


def test_a_server_that_starts_from_a_snapshot_has_the_same_state() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            token = await take(pool, "gamma", 2)
            pool.crash("gamma")
            pool.log.compact()
            await pool.advance(0.5)
            pool.start("gamma")
            await pool.until(pool.serving, within_s=3.0)
            await pool.advance(0.4)
            digests = {pool.server(name).pool_machine.digest() for name in pool.names}
            assert len(digests) == 1
            assert (await beat(pool, "gamma", token)).status == "renewed"

    run_virtual(program())


def test_the_servers_list_names_the_leader_first_and_those_that_are_down_last() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.crash("alpha")
            await pool.until(lambda: pool.log.commits(pool.log.leader))
            await pool.until(lambda: status_of(pool, "alpha") is ServerStatus.DOWN)
            other = next(name for name in pool.running if name != pool.leader)
            await pool.advance(1.0)
            view = pool.server(other).pool()
            assert view.priority == [pool.leader, other, "alpha"]
            assert view.leader == pool.leader

    run_virtual(program())


# -- licenses ---------------------------------------------------------------------------------


def test_any_server_installs_a_license_and_all_have_it() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6}, at="gamma")
            for name in pool.names:
                assert pool.server(name).license().sequence == 1
                copy = pool.data_dir(name) / "license.yaml"
                assert copy.read_text() == pool.server(name).license().text

    run_virtual(program())


def test_older_and_other_files_of_the_same_number_are_refused_and_the_same_is_welcome() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            first = pool.license_text({"cad": 6}, sequence=7)
            older = pool.license_text({"cad": 60}, sequence=6)
            other = pool.license_text({"cad": 60}, sequence=7)
            server = pool.server("beta")
            for text, code in ((first, None), (first, None), (older, 409), (other, 409)):
                answer = await server.install_license(text)
                if code is None:
                    assert not isinstance(answer, Problem)
                    assert answer.sequence == 7
                else:
                    assert isinstance(answer, Problem)
                    assert (answer.status, answer.code) == (409, "stale_sequence")
                    assert answer.sequence == 7
            assert isinstance(answer, Problem)
            assert "with other content" in answer.detail
            assert server.license().text == first

    run_virtual(program())


@pytest.mark.parametrize("file", ["given.lic", "license.yaml"])
def test_a_server_that_was_given_a_newer_file_while_it_was_down_brings_it_to_all(
    file: str,
) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.crash("gamma")
            newer = pool.license_text({"cad": 9}, sequence=5)
            (pool.data_dir("gamma") / file).write_text(newer)
            pool.start("gamma")
            await pool.until(lambda: pool.server("alpha").license().sequence == 5, within_s=10.0)
            await pool.advance(1.0)
            assert (pool.data_dir("alpha") / "license.yaml").read_text() == newer

    run_virtual(program())


def test_a_server_that_missed_a_file_gets_it() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.crash("gamma")
            await pool.install({"cad": 9})
            pool.start("gamma")
            await pool.until(lambda: pool.server("gamma").license().sequence == 2, within_s=10.0)
            await pool.advance(1.0)
            copy = pool.data_dir("gamma") / "license.yaml"
            assert copy.read_text() == pool.server("alpha").license().text

    run_virtual(program())


def test_a_server_without_the_vendors_key_grants_none_and_says_so() -> None:
    async def program() -> None:
        async with InProcessPool(3, strangers=["gamma"]) as pool:
            await pool.install({"cad": 6}, at="alpha")
            await pool.advance(0.5)
            problem = await refused(pool, "gamma")
            assert (problem.status, problem.code) == (403, "not_licensed")
            assert any("vendor_keys" in line for line in pool.server("gamma").pool().trouble)
            await take(pool, "beta")
            answer = await pool.server("gamma").install_license(pool.license_text({"cad": 60}))
            assert isinstance(answer, Problem)
            assert (answer.status, answer.code) == (422, "invalid_license")

    run_virtual(program())


def test_a_smaller_license_takes_effect_as_seats_come_back() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            tokens = {name: await take(pool, name, 2) for name in pool.names}
            await pool.install({"cad": 3})
            await pool.advance(1.0)
            assert sum(allocated(pool).values()) == 6  # What nobody held is gone at once.
            for name, token in tokens.items():
                assert (await beat(pool, name, token)).status == "renewed"
                assert (await refused(pool, name)).code == "no_seats"
            await pool.checkin("alpha", tokens["alpha"])
            await pool.advance(0.5)
            assert sum(allocated(pool).values()) == 4
            assert (await refused(pool, "alpha")).code == "no_seats"
            await pool.checkin("beta", tokens["beta"])
            await pool.advance(0.5)
            assert sum(allocated(pool).values()) == 3
            await take(pool, "alpha")
            assert (await refused(pool, "alpha")).code == "no_seats"

    run_virtual(program())


@pytest.mark.parametrize("by_snapshot", [False, True])
def test_seats_too_many_at_a_server_that_was_away_retire_when_it_is_back(
    by_snapshot: bool,
) -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            pool.crash("gamma")
            await pool.install({"cad": 2})
            if by_snapshot:
                await pool.advance(0.5)
                pool.log.compact()
            pool.start("gamma")
            await pool.until(pool.serving)
            await pool.advance(5.0)
            assert sum(allocated(pool).values()) == 2
            await take(pool, "alpha", 2, wait=5)

    run_virtual(program())


def test_a_license_expires_by_the_clock_of_the_majority_and_does_not_come_back() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            noon_s = pool.clocks["alpha"].wall()
            await pool.install({"cad": 9}, expires=date(2026, 11, 21))
            pool.clocks["alpha"].set_wall(noon_s + 86_400)
            await pool.advance(3.0)
            await take(pool, "alpha")
            pool.clocks["beta"].set_wall(noon_s + 86_400)
            await pool.advance(3.0)
            for name in pool.names:
                problem = await refused(pool, name)
                assert (problem.status, problem.code) == (403, "not_licensed")
                assert "expired on 2026-11-21" in problem.detail
            for clock in pool.clocks.values():
                clock.set_wall(noon_s - 86_400)
            await pool.advance(3.0)
            assert (await refused(pool, "gamma")).code == "not_licensed"

    run_virtual(program())


def test_a_version_that_the_license_does_not_cover_is_refused() -> None:
    async def program() -> None:
        async with a_pool(1) as pool:
            await pool.install({"cad": 9}, version="2026")
            for version, status in (("2025.4", 201), ("2026.1", 201), ("2027", 403), (None, 201)):
                answer = await pool.checkout("alpha", CheckoutRequest("cad", version=version))
                assert answer[0] == status, version
            _, problem = await pool.checkout("alpha", CheckoutRequest("cam"))
            assert isinstance(problem, Problem)
            assert (problem.status, problem.code) == (404, "unknown_feature")

    run_virtual(program())


def test_nothing_moves_without_a_majority_and_all_goes_on_with_it() -> None:
    async def program() -> None:
        async with a_pool(5) as pool:
            await pool.install({"cad": 10})
            pool.log.isolate("alpha", "beta")
            await pool.advance(LEASE_S + 0.1)
            for name in ("alpha", "beta"):
                assert (await refused(pool, name)).code == "no_quorum"
            await take(pool, "gamma", 6, wait=5)
            pool.log.heal()
            pool.log.fate = lambda server, command: COMMITTED
            await pool.until(pool.serving)
            await take(pool, "alpha", 4, wait=5)
            assert (await refused(pool, "alpha", 1)).code == "no_seats"

    run_virtual(program())
