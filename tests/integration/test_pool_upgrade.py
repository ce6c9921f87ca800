"""A rolling upgrade: servers of two releases in one pool, and no way back."""

from __future__ import annotations

from support.next_release import NOTED, command_of
from support.processes import MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]


def noted(pool: ServerPool, name: str) -> bool:
    return NOTED in (pool.directory / f"{name}.log").read_text()


def restart(pool: ServerPool, name: str, *, new: bool) -> None:
    pool.stop(name)
    if new:
        pool.start(name, run=command_of)
    else:
        pool.start(name)


def test_a_pool_is_upgraded_server_by_server(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30})
    held = pool.checkout("alpha", "cad")["token"]
    for name in ("gamma", "beta"):
        restart(pool, name, new=True)
        pool.wait_ready()
        # Each grants, seats move between releases, and nothing new is written yet.
        for server in pool.names:
            granted = pool.checkout(server, "cad", 12, wait=5)
            assert granted.status == 201
            assert pool.checkin(server, granted["token"])["released"]
        assert pool.status_of("alpha", held) == "renewed"
        assert not any(noted(pool, server) for server in pool.names)
    restart(pool, "alpha", new=True)
    pool.wait_ready()
    wait_for(lambda: all(noted(pool, name) for name in pool.names), 10, "all write version 2")
    assert pool.status_of("alpha", held) == "renewed"

    # A server that is taken back to the old release says why it cannot serve, and ends.
    restart(pool, "beta", new=False)
    wait_for(lambda: not pool.running("beta"), 20, "the old release ends")
    end = (pool.directory / "beta.log").read_text().splitlines()[-40:]
    assert any("version 2" in line and "upgrade this server" in line for line in end), end
    assert pool.checkout("gamma", "cad").status == 201
    pool.start("beta", run=command_of)
    pool.wait_ready("beta")
