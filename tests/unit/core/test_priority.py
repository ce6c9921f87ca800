"""The leader priority list, and that its version grows with every change."""

from __future__ import annotations

import pytest
from support.pools import ALPHA, BETA, GAMMA, Pool

from licraft.core.commands import Drain, RemoveServer
from licraft.core.priority import list_version, priority_list
from licraft.core.state import ServerStatus


def names(pool: Pool, leader: str | None) -> list[str]:
    return [place.name for place in priority_list(pool.state, leader)]


@pytest.mark.parametrize(
    ("leader", "order"),
    [
        (ALPHA, [ALPHA, BETA, GAMMA]),
        (BETA, [BETA, ALPHA, GAMMA]),
        (GAMMA, [GAMMA, ALPHA, BETA]),
        (None, [ALPHA, BETA, GAMMA]),
    ],
)
def test_the_leader_first_then_the_order_of_the_configuration(
    leader: str | None, order: list[str]
) -> None:
    assert names(Pool(), leader) == order


def test_who_is_up_comes_before_who_is_draining_new_or_down() -> None:
    pool = Pool(("a", "b", "c", "d", "e"), up=False)
    for name in "abde":
        pool.up(name)
    pool.down("a")
    pool.state.servers["b"].status = ServerStatus.DRAINING
    assert names(pool, "e") == ["e", "d", "b", "c", "a"]
    leads = [place.leads for place in priority_list(pool.state, "e")]
    assert leads == [True, False, False, False, False]


def test_a_leader_that_is_drained_comes_after_who_grants_and_before_who_drains_too() -> None:
    pool = Pool(("a", "b", "c", "d"))
    pool.now(Drain("d", on=True))
    assert names(pool, "d") == ["a", "b", "c", "d"]
    pool.now(Drain("b", on=True))
    assert names(pool, "d") == ["a", "c", "d", "b"]
    pool.now(Drain("d", on=False))
    assert names(pool, "d") == ["d", "a", "c", "b"]


def test_a_leader_that_is_leaving_or_not_up_is_not_the_first_either() -> None:
    leaving, down = Pool(), Pool()
    leaving.now(RemoveServer(ALPHA))
    down.down(ALPHA)
    assert names(leaving, ALPHA) == names(down, ALPHA) == [BETA, GAMMA, ALPHA]


def test_where_nobody_is_up_the_leader_is_first() -> None:
    pool = Pool(up=False)
    assert names(pool, BETA) == [BETA, ALPHA, GAMMA]
    pool = Pool()
    for name in (ALPHA, BETA, GAMMA):
        pool.now(Drain(name, on=True))
    assert names(pool, GAMMA) == [GAMMA, ALPHA, BETA]


def test_one_that_is_drained_and_down_comes_last() -> None:
    pool = Pool()
    pool.now(Drain(ALPHA, on=True))
    pool.down(ALPHA)
    assert names(pool, GAMMA) == [GAMMA, BETA, ALPHA]


def test_places_tell_where_a_server_is_and_how_it_does() -> None:
    pool = Pool()
    pool.down(BETA)
    last = priority_list(pool.state, ALPHA)[-1]
    assert (last.name, last.api, last.status) == (BETA, "http://beta:7700", ServerStatus.DOWN)


def test_the_version_grows_with_every_change() -> None:
    pool = Pool()
    versions = [list_version(pool.state, None, 1), list_version(pool.state, ALPHA, 1)]
    for change, server in (
        (pool.down, BETA),
        (pool.up, BETA),
        (pool.up, GAMMA),
        (lambda name: pool.now(Drain(name, on=True)), GAMMA),
        (lambda name: pool.now(Drain(name, on=False)), GAMMA),
        (pool.down, ALPHA),
    ):
        change(server)
        versions.append(list_version(pool.state, ALPHA, 1))
    versions.append(list_version(pool.state, None, 2))
    versions.append(list_version(pool.state, BETA, 2))
    assert versions == sorted(set(versions))


def test_the_version_stays_while_the_list_does() -> None:
    pool = Pool()
    before = list_version(pool.state, ALPHA, 1)
    pool.renew(ALPHA)
    pool.down(BETA)
    down = list_version(pool.state, ALPHA, 1)
    pool.down(BETA)
    pool.reclaim(BETA)
    assert before < down == list_version(pool.state, ALPHA, 1)
