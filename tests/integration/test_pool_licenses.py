"""License files and codes on real servers: given to one, held by all (R10, R19, B11, B25)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.processes import POOL, Answer, MakePool, ServerPool, wait_for

from licraft.vendor.codes import make_code, read_code
from licraft.vendor.license_file import write_license_file

pytest_plugins = ["support.pool_fixtures"]

SEATS = {"cad": 30}


def given(pool: ServerPool, name: str) -> Path:
    """The `license_file` of a server's configuration."""
    return pool.directory / f"{name}.lic"


def hang_up(pool: ServerPool, name: str) -> None:
    """SIGHUP: read the files again."""
    pool.processes[name].process.send_signal(signal.SIGHUP)


def copy(pool: ServerPool, name: str) -> str:
    """The license file in a server's data directory."""
    path = pool.directory / "data" / name / "license.yaml"
    return path.read_text() if path.exists() else ""


def wait_installed(pool: ServerPool, text: str, within_s: float = 15.0) -> None:
    """Wait until every running server has this very file, on its disk too."""
    pool.wait_everywhere(
        lambda name: copy(pool, name) == text == pool.get(name, "/v1/license").body.get("text"),
        within_s,
        "the license file",
    )


def text_at(pool: ServerPool, name: str) -> str:
    return str(pool.get(name, "/v1/license")["text"])


def trouble(pool: ServerPool, name: str) -> str:
    return "\n".join(pool.get(name, "/v1/pool").body.get("trouble", []))


def installs(pool: ServerPool, name: str) -> list[Any]:
    """What a server's audit says of the license files that were installed."""
    records = pool.get(name, "/v1/audit")["records"]
    return [record for record in records if record["what"].startswith("install license")]


def add(pool: ServerPool, name: str, code: str, distribution: str | None = None) -> Answer:
    """Add a code at a server, again while there is no quorum: that is safe."""
    body = {"code": code} | ({"distribution": distribution} if distribution else {})
    deadline = time.monotonic() + 20.0
    while True:
        answer = pool.ask(name, "POST", "/v1/license/codes", body, timeout_s=15.0)
        if answer.status != 503 or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)


def licraft(pool: ServerPool, name: str, *command: str) -> subprocess.CompletedProcess[str]:
    """The command line, as an administrator of the pool who knows one server."""
    environ = os.environ | {"LICRAFT_SERVERS": pool.urls[name], "LICRAFT_TOKEN": pool.admin}
    return subprocess.run(
        [sys.executable, "-m", "licraft", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ,
    )


def test_r10_r19_a_file_given_to_a_server_that_is_down_is_everybodys_when_it_is_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS)
    name = pool.followers()[0]
    pool.kill(name)
    newer = pool.license_text({"cad": 36}, sequence=9)
    given(pool, name).write_text(newer)
    pool.start(name)
    wait_installed(pool, newer)
    assert pool.allocated(pool.leader()) == dict.fromkeys(pool.names, 12)
    # Whoever wrote it there changed the pool, and every server's audit says so.
    for at in pool.names:
        *_, record = installs(pool, at)
        assert record["what"].startswith("install license license=number 9 of 1 codes"), record
        assert (record["who"], record["where"]) == (f"whoever wrote {given(pool, name)}", name)
    # Smaller: it takes the pool's.
    pool.kill(name)
    given(pool, name).write_text(pool.license_text({"cad": 90}, sequence=8))
    pool.start(name)
    pool.wait_ready(name)
    wait_installed(pool, newer)
    assert trouble(pool, name) == ""


def test_r10_a_file_given_to_a_server_that_is_alone_is_everybodys_when_it_is_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS)
    alone, *others = pool.names
    pool.kill(*others)
    wait_for(lambda: not pool.ready(alone), 10, "it has no quorum")
    newer = pool.license_text({"cad": 36}, sequence=5)
    given(pool, alone).write_text(newer)
    hang_up(pool, alone)
    refused = pool.ask(alone, "PUT", "/v1/license", content=newer.encode())
    assert (refused.status, refused.code) == (503, "no_quorum")
    pool.start(*others)
    wait_installed(pool, newer)


def test_r19_another_file_of_the_same_number_is_shown_at_every_server_until_it_is_settled(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS)
    pools = text_at(pool, "alpha")
    name, other = pool.followers()
    pool.kill(name)
    given(pool, name).write_text(pool.license_text({"cad": 90, "cam": 2}, sequence=1))
    pool.start(name)
    notice = f"server {name} was given another license file"
    pool.wait_everywhere(lambda at: notice in trouble(pool, at), 15, "the conflict is shown")
    wait_installed(pool, pools)
    for at in pool.names:
        assert [c["server"] for c in pool.get(at, "/v1/license")["conflicts"]] == [name]
    # Both can be compared from anywhere.
    wait_for(lambda: "refused" in pool.get(name, "/v1/license").body, 5, "it shows its own")
    diff = licraft(pool, other, "license", "diff")
    assert diff.returncode == 0, diff.stderr
    assert "number 1, 1 codes" in diff.stdout
    assert "number 1, 2 codes" in diff.stdout
    as_json = json.loads(licraft(pool, other, "license", "diff", "--json").stdout)
    (found,) = as_json["differences"]
    assert sorted(
        (row["only_in"].split(":")[0], row["feature"], row["count"]) for row in found
    ) == [
        (name, "cad", 90),
        (name, "cam", 2),
        ("the pool's", "cad", 30),
    ]
    assert notice in licraft(pool, other, "status").stdout
    # Settled by hand: the server is given the pool's file.
    given(pool, name).write_text(pools)
    hang_up(pool, name)
    pool.wait_everywhere(lambda at: "was given" not in trouble(pool, at), 10, "it is settled")
    assert "contradicts" in licraft(pool, other, "license", "diff").stdout


def test_sighup_has_a_server_read_its_license_file_again(make_pool: MakePool) -> None:
    pool = make_pool(SEATS)
    name = pool.followers()[0]
    newer = pool.license_text({"cad": 33}, sequence=2)
    given(pool, name).write_text(newer)
    hang_up(pool, name)
    wait_installed(pool, newer)
    given(pool, name).write_text("codes: [")
    hang_up(pool, name)
    wait_for(lambda: "was not installed" in trouble(pool, name), 10, "it says what is wrong")
    assert text_at(pool, name) == newer
    # It goes on serving, and what is mended is not mentioned any more.
    given(pool, name).write_text(newer)
    hang_up(pool, name)
    wait_for(lambda: trouble(pool, name) == "", 10, "it is well")
    assert pool.checkout(name).status == 201


def test_b11_b12_b25_b26_a_code_is_added_at_any_server_and_deployed_by_its_criteria(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS)
    first, second = pool.followers()
    leader = pool.leader()
    code = make_code(pool.vendor, feature="cad", count=12, pool=POOL)
    answer = add(pool, first, code, f"{second}:7^{leader}:5")
    assert answer.status == 200, answer
    assert answer["sequence"] == 2
    expected = {first: 10, second: 17, leader: 15}
    pool.wait_everywhere(lambda at: pool.allocated(at) == expected, 5, "the new distribution")
    wait_installed(pool, text_at(pool, first))
    # The same again, elsewhere and by the command line, in the shape that mail gave it.
    wrapped = "\n".join(code[i : i + 60] for i in range(0, len(code), 60))
    again = licraft(pool, second, "license", "add-code", wrapped, "--json")
    assert json.loads(again.stdout)["sequence"] == 2, again.stderr
    # A new feature, evenly.
    cam = make_code(pool.vendor, feature="cam", count=6)
    said = licraft(pool, second, "license", "add-code", cam)
    assert said.stdout == "the code is in license file number 3 of the pool\n", said.stderr
    pool.wait_everywhere(lambda at: pool.get(at, "/v1/license")["sequence"] == 3, 5, "three")
    assert pool.allocated(first, "cam") == dict.fromkeys(pool.names, 2)
    shown = licraft(pool, first, "license", "show", "--feature", "cam").stdout.splitlines()
    assert len(shown) == 4
    assert " cam " in shown[3]
    # What is no code of a trusted vendor is refused: exit status 4, nothing changed.
    refused = licraft(pool, first, "license", "add-code", cam[:-4] + "AAAA")
    assert refused.returncode == 4
    assert pool.get(leader, "/v1/license")["sequence"] == 3
    client = pool.ask(first, "POST", "/v1/license/codes", {"code": cam}, token=pool.client)
    assert client.code == "not_authorized"


def test_r10_r19_a_server_that_was_given_a_file_comes_back_while_nobody_leads(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS)
    leader = pool.leader()
    back, other = pool.followers()
    pool.kill(back)
    newer = pool.license_text({"cad": 60}, sequence=7)
    given(pool, back).write_text(newer)
    # The one that is left can elect nobody before the one with the file is back.
    pool.kill(leader)
    pool.start(back)
    wait_installed(pool, newer)
    assert pool.get(other, "/v1/license")["sequence"] == 7
    pool.start(leader)
    wait_installed(pool, newer)
    assert len(installs(pool, other)) == 2


def test_less_is_licensed_than_is_held_and_nothing_is_taken(make_pool: MakePool) -> None:
    pool = make_pool(SEATS)
    tokens = {name: pool.checkout(name, count=8)["token"] for name in pool.names}
    pool.install({"cad": 20}, at=pool.followers()[0])
    pool.wait_everywhere(lambda at: pool.feature(at)["over"] == 4, 10, "unused seats are gone")
    for name, token in tokens.items():
        assert "cad over by 4: falling" in trouble(pool, name)
        assert pool.status_of(name, token) == "renewed"
        assert pool.checkout(name).status == 409
    assert "over by 4, falling" in licraft(pool, "alpha", "features").stdout
    assert "over by 4, falling" in licraft(pool, "alpha", "features", "cad").stdout
    assert "over by 4, falling" in licraft(pool, "alpha", "status").stdout
    pool.checkin("alpha", tokens["alpha"])
    pool.wait_everywhere(lambda at: pool.feature(at)["over"] == 0, 10, "they retired")
    assert pool.feature("beta")["deployed"] == 20
    assert pool.unbalanced() == []


def big(pool: ServerPool, codes: int, features: int) -> str:
    """A license file of so many codes of so many features, one of them of a million seats."""
    last = datetime.now(UTC).date() + timedelta(days=400)
    shares = tuple((name, 3) for name in pool.names)
    read = []
    for number in range(codes):
        text = make_code(
            pool.vendor,
            feature=f"feature-{number % features:04d}",
            count=10 if number else 1_000_000,
            version="2026",
            expires=last,
            pool=POOL,
            options={"edition": "professional"},
        )
        code = replace(read_code(text, ()), trusted=True)
        read.append(replace(code, distribution=shares, threshold=0.8))
    return write_license_file(POOL, 2, read)


@pytest.mark.timeout(180)
def test_a_license_of_5000_codes_and_1000_features_is_installed_and_stays_readable(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS, lease_s=3.0, ttl_s=20.0)
    text = big(pool, 5_000, 1_000)
    name = pool.followers()[0]
    began = time.monotonic()
    answer = pool.ask(name, "PUT", "/v1/license", content=text.encode(), timeout_s=30.0)
    answered_s = time.monotonic() - began
    assert answer.status == 200, answer
    pool.wait_everywhere(lambda at: copy(pool, at) == text, 20, "every disk")
    took_s = time.monotonic() - began
    print(f"5,000 codes: answered after {answered_s:.2f} s, on every disk after {took_s:.2f} s")
    assert took_s < 15.0  # 5 s on a machine that does nothing else.
    assert [pool.ready(at) for at in pool.names] == [True] * 3
    shown = licraft(pool, name, "status").stdout.splitlines()
    assert len(shown) < 40
    assert max(map(len, shown)) < 300
    assert any("more features: `licraft features" in line for line in shown)
    listed = licraft(pool, name, "features").stdout.splitlines()
    assert len(listed) > 1_000
    assert any(row.split()[:1] == ["feature-0000"] and "1000040" in row for row in listed)
    assert pool.checkout(name, "feature-0999").status == 201


def expired_yesterday(pool: ServerPool, sequence: int, counts: Mapping[str, int]) -> str:
    day = datetime.now(UTC).date() - timedelta(days=1)
    read = [
        read_code(make_code(pool.vendor, feature=f, count=n, expires=day), [pool.vendor.public])
        for f, n in counts.items()
    ]
    return write_license_file(POOL, sequence, read)


def test_a_code_that_expired_is_listed_and_grants_nothing_and_its_holders_are_told(
    make_pool: MakePool,
) -> None:
    pool = make_pool(SEATS)
    token = pool.checkout("beta")["token"]
    text = expired_yesterday(pool, 2, SEATS)
    assert pool.ask("gamma", "PUT", "/v1/license", content=text.encode()).status == 200
    wait_installed(pool, text)

    def told(name: str) -> bool:
        answer = pool.heartbeat(name, token)
        return bool(answer["results"][0].get("code") == "not_licensed")

    pool.wait_everywhere(told, 5, "the holder is told")
    for name in pool.names:
        assert pool.checkout(name).code == "not_licensed"
        assert "cad: expired on" in trouble(pool, name)
