"""The redundant license file and license codes, in a pool in virtual time (sections 7 and 8)."""

from __future__ import annotations

import asyncio
import logging
from datetime import date, timedelta

import pytest
from support.scenario_calls import allocated, beat, fate_of, refused, take

from licraft.core.commands import InstallLicense
from licraft.testing import InProcessPool, late, run_virtual
from licraft.vendor.codes import make_code
from licraft.vendor.keys import generate
from licraft.wire import Authorization, CheckoutRequest, CodeRequest, Installed, Problem

TODAY = date(2026, 11, 21)
DAY = timedelta(days=1)
DAY_S = 86_400.0
HOUR_S = 3_600.0
TTL_S = 12.0


def a_pool(**options: float) -> InProcessPool:
    return InProcessPool(3, lease_s=3.0, ttl_s=TTL_S, drift=0.1, threshold=1.0, **options)  # type: ignore[arg-type]  # all of them are floats


async def add(
    pool: InProcessPool, at: str, code: str, distribution: str | dict[str, int] | None = None
) -> Installed | Problem:
    return await pool.server(at).add_code(CodeRequest(code, distribution))


async def added(
    pool: InProcessPool, at: str, code: str, distribution: str | dict[str, int] | None = None
) -> int:
    """Add a code, which must succeed; the file's number after it."""
    answer = await add(pool, at, code, distribution)
    assert isinstance(answer, Installed), answer
    return answer.sequence


def copies(pool: InProcessPool) -> set[str]:
    """What the running servers have on disk."""
    return {(pool.data_dir(name) / "license.yaml").read_text() for name in pool.running}


async def settled(pool: InProcessPool, sequence: int) -> None:
    """Wait until every running server has the file of this number, on disk too."""

    def everywhere() -> bool:
        servers = [pool.server(name) for name in pool.running]
        if any(server.license().sequence != sequence for server in servers):
            return False
        return copies(pool) == {servers[0].license().text}

    await pool.until(everywhere, f"license {sequence} everywhere", within_s=20.0)


def told(pool: InProcessPool, text: str) -> list[str]:
    """The running servers whose trouble has this text in it."""
    return [n for n in pool.running if any(text in line for line in pool.server(n).pool().trouble)]


def set_days(pool: InProcessPool, days: float, *servers: str) -> None:
    """Set the wall clocks of these servers, or all, so many days after the test's first noon."""
    for name in servers or pool.names:
        clock = pool.clocks[name]
        clock.set_wall(1_795_262_400.0 + days * DAY_S)


# -- adding codes -----------------------------------------------------------------------------


def test_a_code_is_added_at_any_server_and_is_in_every_servers_file() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            for number, name in enumerate(("beta", "gamma", "alpha"), start=2):
                code = make_code(pool.key, feature="cad", count=3)
                assert await added(pool, name, code) == number
                await settled(pool, number)
                # Again, at any server: it is in the file, nothing changes.
                for again in pool.names:
                    assert await added(pool, again, f" {code[:60]}\n{code[60:]} ") == number
            assert allocated(pool) == {"alpha": 5, "beta": 5, "gamma": 5}
            assert len(pool.server("alpha").license().codes) == 4

    run_virtual(program())


def test_a_first_code_makes_the_file_of_this_pool() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            code = make_code(pool.key, feature="cad", count=5)
            assert await added(pool, "gamma", code, {"beta": 4}) == 1
            await settled(pool, 1)
            assert allocated(pool) == {"beta": 4, "free": 1}
            assert "pool: acme" in pool.server("alpha").license().text

    run_virtual(program())


def test_codes_with_and_without_a_distribution_add_up() -> None:
    """B11: by its criteria, or evenly if it has none."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9})
            code = make_code(pool.key, feature="cad", count=4)
            await added(pool, "beta", code, "gamma:4")
            assert allocated(pool, "beta") == {"alpha": 3, "beta": 3, "gamma": 7}
            await added(pool, "alpha", make_code(pool.key, feature="cad", count=3))
            assert allocated(pool, "alpha") == {"alpha": 4, "beta": 4, "gamma": 8}

    run_virtual(program())


def test_codes_that_are_added_at_the_same_moment_are_all_in_the_file() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 3})
            pool.log.fate = fate_of(InstallLicense, late(0.3))
            codes = [make_code(pool.key, feature="cad", count=3) for _ in range(6)]
            numbers = await asyncio.gather(
                *(added(pool, pool.names[i % 3], code) for i, code in enumerate(codes))
            )
            assert sorted(numbers) == [2, 3, 4, 5, 6, 7]
            await settled(pool, 7)
            ids = {code.id for code in pool.server("beta").license().codes}
            assert len(ids) == 7
            assert sum(allocated(pool).values()) == 21

    run_virtual(program())


def test_a_code_that_can_never_grant_anything_is_refused_and_changes_nothing() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 3})
            key = pool.key
            good = make_code(key, feature="cad", count=3, id="one")
            await added(pool, "alpha", good)
            before = pool.server("alpha").license()
            cases = [
                (make_code(generate(), feature="cad", count=3), None, "not signed by"),
                (make_code(key, feature="cad", count=3, pool="other"), None, "bound to the pool"),
                (make_code(key, feature="cad", count=3, expires=TODAY - DAY), None, "expired on"),
                (make_code(key, feature="cad", count=9, id="one"), None, "another code has the id"),
                (make_code(key, feature="cad", count=3), "beta:4", "adds up to 4"),
                (good[:-9], None, ""),
                ("LIC1", None, ""),
            ]
            for code, distribution, why in cases:
                answer = await add(pool, "beta", code, distribution)
                assert isinstance(answer, Problem), code
                assert (answer.status, answer.code) == (422, "invalid_license")
                assert why in answer.detail
            answer = await add(pool, "beta", good, "delta:1")
            assert isinstance(answer, Problem)
            assert (answer.status, answer.field) == (400, "distribution")
            assert pool.server("alpha").license() == before
            later = make_code(key, feature="cad", count=3, starts=TODAY + DAY)
            assert await added(pool, "beta", later) == 3

    run_virtual(program())


# -- files that servers are given --------------------------------------------------------------


def test_a_file_given_to_a_server_while_it_is_alone_wins_when_it_is_back() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pool.log.isolate("gamma")
            await pool.advance(5.0)
            newer = pool.license_text({"cad": 9}, sequence=8)
            pool.given_license("gamma").write_text(newer)
            answer = await pool.server("beta").install_license(pool.license_text({"cad": 7}))
            assert isinstance(answer, Installed)
            pool.log.heal()
            await settled(pool, 8)
            assert copies(pool) == {newer}
            assert sum(allocated(pool).values()) == 9

    run_virtual(program())


def test_a_file_is_read_again_when_the_server_is_told_to() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            given = pool.given_license("beta")
            given.write_text(pool.license_text({"cad": 8}, sequence=3))
            await pool.advance(5.0)
            assert pool.server("beta").license().sequence == 1
            pool.server("beta").keeper.reread()
            await settled(pool, 3)
            # Smaller: the pool's stays, and nobody complains.
            given.write_text(pool.license_text({"cad": 80}, sequence=2))
            pool.server("beta").keeper.reread()
            await pool.advance(2.0)
            assert pool.server("beta").license().sequence == 3
            assert told(pool, "license") == []
            # What cannot be read is told here until it can be.
            given.write_text("sequence: [")
            pool.server("beta").keeper.reread()
            await pool.until(lambda: told(pool, "given.lic") == ["beta"])
            given.unlink()
            pool.server("beta").keeper.reread()
            await pool.until(lambda: told(pool, "given.lic") == [])

    run_virtual(program())


def test_an_equal_number_with_other_content_is_shown_everywhere_until_it_is_settled() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            pools = pool.server("alpha").license().text
            other = pool.license_text({"cad": 60}, sequence=1)
            given = pool.given_license("gamma")

            async def conflicts() -> None:
                """It appears at every server, with what is needed to compare the two."""
                await pool.until(lambda: told(pool, "server gamma was given") == list(pool.names))
                await pool.until(lambda: pool.server("gamma").license().refused is not None)
                for name in pool.names:
                    found = pool.server(name).license()
                    assert [c.server for c in found.conflicts] == ["gamma"]
                    assert found.text == pools
                    refused = found.refused
                    assert (refused.text if refused else "") == (other if name == "gamma" else "")
                assert sum(allocated(pool).values()) == 6

            given.write_text(other)
            pool.crash("gamma")
            pool.start("gamma")
            await conflicts()
            # Through restarts of anybody, and while gamma is away.
            pool.crash("gamma")
            pool.crash("beta")
            pool.start("beta")
            await pool.until(lambda: told(pool, "server gamma was given") == ["alpha", "beta"])
            pool.start("gamma")
            await pool.until(pool.serving)
            await conflicts()
            # Settled by the pool's own file, however it is written down.
            given.write_text(f"# from the pool\n{pools}")
            pool.server("gamma").keeper.reread()
            await pool.until(lambda: told(pool, "was given") == [])
            assert pool.server("gamma").license().refused is None
            # Or by a newer one, installed anywhere.
            given.write_text(other)
            pool.server("gamma").keeper.reread()
            await conflicts()
            await pool.install({"cad": 7}, at="beta")
            await pool.until(lambda: told(pool, "was given") == [])
            assert pool.server("gamma").license().refused is None
            pool.server("gamma").keeper.reread()
            await pool.advance(3.0)
            assert told(pool, "was given") == []

    run_virtual(program())


def test_what_the_pools_file_took_the_place_of_contradicts_it_until_it_is_settled() -> None:
    """A server comes back with a file of its own, of the pool's number, in its data directory."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6})
            await settled(pool, 1)
            other = pool.license_text({"cad": 60}, sequence=1)
            data = pool.data_dir("gamma")

            async def shown() -> None:
                await pool.until(lambda: told(pool, "server gamma was given") == list(pool.names))
                await settled(pool, 1)
                found = pool.server("gamma").license().refused
                assert found is not None
                assert (found.text, found.sequence) == (other, 1)
                assert sum(allocated(pool).values()) == 6

            async def come_back(with_other: bool) -> None:
                pool.crash("gamma")
                if with_other:
                    (data / "license.yaml").write_text(other)
                pool.start("gamma")
                await pool.until(pool.serving)
                await pool.advance(3.0)

            await come_back(with_other=True)
            await shown()
            # Nothing is settled by looking again, or by starting again.
            for _ in range(2):
                pool.server("gamma").keeper.reread()
                await pool.advance(3.0)
                await shown()
            await come_back(with_other=False)
            await shown()
            # Somebody takes it away.
            (data / "license.previous").unlink()
            pool.server("gamma").keeper.reread()
            await pool.until(lambda: told(pool, "was given") == [])
            assert pool.server("gamma").license().refused is None
            # Or the pool has a newer one.
            await come_back(with_other=True)
            await shown()
            await pool.install({"cad": 7}, at="beta")
            await pool.until(lambda: told(pool, "was given") == [])
            await come_back(with_other=False)
            assert told(pool, "was given") == []

    run_virtual(program())


def test_the_keys_are_read_again_too() -> None:
    async def program() -> None:
        async with InProcessPool(3, strangers=["gamma"]) as pool:
            await pool.install({"cad": 6}, at="alpha")
            await pool.until(lambda: told(pool, "vendor_keys do not verify") == ["gamma"])
            assert (await refused(pool, "gamma")).code == "not_licensed"
            pool.server("gamma").keeper.reread((pool.key.public,))
            await pool.until(lambda: told(pool, "vendor_keys") == [])
            await take(pool, "gamma")

    run_virtual(program())


# -- less than before ---------------------------------------------------------------------------


def test_a_license_of_less_takes_nothing_from_holders_and_says_how_far_it_is() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 9, "cam": 3})
            tokens = {name: await take(pool, name, 2) for name in pool.names}
            # One feature shrinks, then it is gone from the file.
            for features, entitled, status in (
                ({"cad": 3, "cam": 3}, 3, "valid"),
                ({"cam": 3}, 0, "removed"),
            ):
                await pool.install(features)
                await pool.advance(1.0)
                seen = pool.server("gamma").feature("cad")
                assert not isinstance(seen, Problem)
                assert (seen.entitled, seen.deployed, seen.over) == (entitled, 6, 6 - entitled)
                assert seen.status == status
                assert told(pool, f"cad over by {6 - entitled}: falling") == list(pool.names)
                for name, token in tokens.items():
                    assert (await beat(pool, name, token)).status == "renewed"
                    assert (await refused(pool, name)).code in ("no_seats", "not_licensed")
            await pool.checkin("alpha", tokens["alpha"])
            await pool.until(lambda: bool(told(pool, "cad over by 4: falling")))
            await pool.checkin("beta", tokens["beta"])
            await pool.until(lambda: bool(told(pool, "cad over by 2: falling")))
            await pool.checkin("gamma", tokens["gamma"])
            await pool.until(lambda: told(pool, "over by") == [])
            assert allocated(pool) == {}

    run_virtual(program())


def test_a_server_gives_up_what_is_too_many_once_however_long_that_takes() -> None:
    """Seats that nobody holds stay with the server that the file has them at."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 10}, distribution={"cad": "gamma:10"})
            pool.log.latency_s = (0.2, 0.3)
            await pool.install({"cad": 4}, distribution={"cad": "gamma:4"})
            await pool.advance(2.0)
            assert all(allocated(pool, name) == {"gamma": 4} for name in pool.names)

    run_virtual(program())


# -- expiry -------------------------------------------------------------------------------------


def test_expiry_is_told_30_14_7_and_1_day_ahead_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    last = TODAY + 40 * DAY

    def lines() -> list[str]:
        return [r.message for r in caplog.records if "expire" in r.message]

    async def program() -> None:
        async with InProcessPool(1) as pool:
            await pool.install({"cad": 6}, expires=last)
            code = make_code(pool.key, feature="cad", count=2, expires=last + 90 * DAY)
            await added(pool, "alpha", code)
            seen = []
            for day in range(42):
                set_days(pool, day)
                await pool.advance(2.0)
                view = pool.server("alpha").feature("cad")
                assert not isinstance(view, Problem)
                left = view.expires_in_days
                trouble = [t for t in pool.server("alpha").pool().trouble if "expires" in t]
                assert bool(view.warning) == bool(trouble) == (left is not None and left <= 30)
                if lines():
                    assert lines() == trouble
                    seen.append(left)
                    caplog.clear()
            assert seen == [30, 14, 7, 1]
            assert not isinstance(view, Problem)
            assert view.entitled == 2  # What another code grants goes on.
            assert view.expires == (last + 90 * DAY).isoformat()

    with caplog.at_level(logging.WARNING):
        run_virtual(program())


def test_codes_that_take_over_at_once_are_no_loss_to_warn_of() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 6}, expires=TODAY + 3 * DAY)
            assert told(pool, "expires on 2026-11-24, in 3 days") == list(pool.names)
            following = make_code(pool.key, feature="cad", count=6, starts=TODAY + 4 * DAY)
            await added(pool, "beta", following)
            await pool.advance(0.5)
            assert told(pool, "expires") == []

    run_virtual(program())


@pytest.mark.parametrize("grace_s", [0.0, 2 * HOUR_S])
def test_holders_are_renewed_until_the_grace_is_over_whatever_one_clock_says(
    grace_s: float,
) -> None:
    """gamma's clock is turned back a year; the pool clock is that of the others."""

    async def program() -> None:
        async with a_pool(expiry_grace_s=grace_s) as pool:
            await pool.install({"cad": 9, "cam": 3})
            text = pool.license_text({"cad": 9}, expires=TODAY)
            codes = [make_code(pool.key, feature="cam", count=3)]
            answer = await pool.server("beta").install_license(text)
            assert isinstance(answer, Installed)
            await added(pool, "beta", codes[0])
            tokens = {name: await take(pool, name) for name in pool.names}
            set_days(pool, -365.0, "gamma")

            async def statuses() -> set[str]:
                return {(await beat(pool, n, t)).status for n, t in tokens.items()}

            set_days(pool, 0.4999, "alpha", "beta")  # 23:59:51
            await pool.advance(2.0)
            assert await statuses() == {"renewed"}
            set_days(pool, 0.5 + 1 / DAY_S, "alpha", "beta")
            await pool.advance(2.0)
            for name in pool.names:
                problem = await refused(pool, name)
                assert (problem.code, "expired on 2026-11-21" in problem.detail) == (
                    "not_licensed",
                    True,
                )
            assert told(pool, "cad: expired on 2026-11-21") == list(pool.names)
            until = told(pool, "renewed until 2026-11-22 02:00 UTC")
            assert until == (list(pool.names) if grace_s else [])
            if grace_s:
                assert await statuses() == {"renewed"}
                set_days(pool, 0.5 + (grace_s - 5) / DAY_S, "alpha", "beta")
                await pool.advance(2.0)
                assert await statuses() == {"renewed"}
                set_days(pool, 0.5 + grace_s / DAY_S, "alpha", "beta")
                await pool.advance(2.0)
            for name in pool.names:
                for token in tokens.values():
                    result = await beat(pool, name, token)
                    assert (result.status, result.code) == ("lost", "not_licensed")
            # All clocks turned back extend nothing, and other features go on.
            set_days(pool, -100.0)
            await pool.advance(3.0)
            assert await statuses() == {"lost"}

    run_virtual(program())


def test_a_new_code_after_the_expiry_gives_no_seat_twice() -> None:
    """Who was told that its seat is lost may not have heard it: the seat waits for its ttl."""

    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 3}, expires=TODAY)
            token = await take(pool, "alpha")
            set_days(pool, 0.5 + 1 / DAY_S)
            await pool.advance(2.0)
            assert (await beat(pool, "alpha", token)).status == "lost"
            await added(pool, "gamma", make_code(pool.key, feature="cad", count=3))
            await pool.advance(0.5)
            # Its seat is still its own: it counts, and is renewed if it asks in time.
            assert (await refused(pool, "beta", 3)).code == "no_seats"
            assert (await beat(pool, "alpha", token)).status == "renewed"

    run_virtual(program())


def test_a_heartbeat_for_several_features_loses_what_expired_and_keeps_the_rest() -> None:
    async def program() -> None:
        async with a_pool() as pool:
            await pool.install({"cad": 3}, expires=TODAY)
            await added(pool, "beta", make_code(pool.key, feature="cam", count=3))
            await pool.advance(0.1)  # The others have applied it too.
            cad, again = await take(pool, "alpha"), await take(pool, "beta")
            _, cam = await pool.checkout("alpha", CheckoutRequest("cam"))
            assert isinstance(cam, Authorization)
            set_days(pool, 0.5 + 1 / DAY_S)
            await pool.advance(2.0)
            answer = await pool.heartbeat("alpha", cad, cam.token, "nonsense", again)
            assert not isinstance(answer, Problem)
            assert [(r.status, r.code) for r in answer] == [
                ("lost", "not_licensed"),
                ("renewed", None),
                ("lost", "not_authorized"),
                ("lost", "not_licensed"),
            ]

    run_virtual(program())
