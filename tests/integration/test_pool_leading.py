"""Leadership on real servers: an administrator's wish, the leader's loss, handing back."""

from __future__ import annotations

import json
import subprocess
import sys

from support.processes import MakePool, ServerPool, wait_for

pytest_plugins = ["support.pool_fixtures"]

HANDBACK_WITHIN_S = 20.0


def licraft(pool: ServerPool, *arguments: str, token: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **pool.environ,
        "LICRAFT_SERVERS": ",".join(pool.urls.values()),
        "LICRAFT_TOKEN": token,
    }
    command = [sys.executable, "-m", "licraft", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)


def test_leadership_is_handed_over_kept_and_given_back(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30})
    first = pool.leader()
    wish = next(name for name in ("gamma", "beta") if name != first)

    refused = licraft(pool, "leader", "transfer", wish, token=pool.client)
    assert refused.returncode == 5
    unknown = licraft(pool, "leader", "transfer", "delta", token=pool.admin)
    assert unknown.returncode != 0
    assert "no server delta in this pool; it has alpha, beta, gamma" in unknown.stderr

    done = licraft(pool, "leader", "transfer", wish, "--json", token=pool.admin)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["leader"] == wish
    assert pool.leader() == wish
    assert pool.checkout("alpha", "cad").status == 201

    pool.kill(wish)
    wait_for(lambda: pool.get("alpha", "/v1/pool")["leader"] not in (None, wish), 10, "a leader")
    wait_for(lambda: pool.state_of(wish, by="alpha") == "down", 20, "it is seen down")
    pool.start(wish)
    pool.wait_ready(wish)
    # The wish ended with the server's loss: the first in the order of priority leads again.
    wait_for(lambda: pool.leader() == "alpha", HANDBACK_WITHIN_S, "alpha leads")
    assert pool.checkout(wish, "cad", wait=5).status == 201
