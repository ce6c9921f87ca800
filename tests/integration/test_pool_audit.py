"""The audit of a pool of real servers: every change, on every server, and tampering is found."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.processes import MakePool, ServerPool, wait_for

from licraft.vendor.codes import make_code

pytest_plugins = ["support.pool_fixtures"]
pytestmark = pytest.mark.timeout(120)


def licraft(
    pool: ServerPool, *arguments: str, at: str, token: str = "admin"
) -> subprocess.CompletedProcess[str]:
    """Run the command line as somebody would who has this token."""
    return subprocess.run(
        [sys.executable, "-m", "licraft", *arguments, "--server", pool.urls[at]],
        cwd=pool.directory,
        env={**pool.environ, "LICRAFT_TOKEN": pool.admin if token == "admin" else pool.client},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def file_of(pool: ServerPool, name: str) -> Path:
    return pool.directory / "data" / name / "audit.log"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def on_every_disk(pool: ServerPool, count: int, *names: str) -> list[dict[str, Any]]:
    """Wait until these servers have so many records on disk, the same ones."""
    chosen = names or tuple(pool.names)

    def same() -> bool:
        return all(len(lines(file_of(pool, name))) == count for name in chosen)

    wait_for(same, 10, f"{count} records on every disk")
    texts = {file_of(pool, name).read_text() for name in chosen}
    assert len(texts) == 1
    return lines(file_of(pool, chosen[0]))


def test_every_administrative_call_is_recorded_and_by_whom(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30})  # the first record
    follower, other = pool.followers()
    seat = pool.checkout(other).body
    assert licraft(pool, "checkin", seat["id"], at=follower).returncode == 0
    assert pool.status_of(other, seat["token"]) == "lost"
    assert pool.feature(other)["servers"][other]["in_use"] == 0
    assert licraft(pool, "server", "drain", other, "--no-wait", at=follower).returncode == 0
    assert licraft(pool, "server", "undrain", other, at=follower).returncode == 0
    assert licraft(pool, "leader", "transfer", follower, at=other).returncode == 0
    changes: list[tuple[str, str, Any]] = [
        ("POST", "/v1/features/cad/allocations", {"count": -3}),
        ("PUT", "/v1/features/cad/distribution", {"distribution": {other: 20}}),
        ("PUT", "/v1/features/cad/borrowing", {"threshold": 0.5}),
    ]
    for method, path, body in changes:
        answer = pool.ask(other, method, path, body)
        assert answer.status == 200, answer
    more = make_code(pool.vendor, feature="cam", count=5)
    assert pool.ask(other, "POST", "/v1/license/codes", {"code": more}).status == 200
    # What is refused is told of too; who may change nothing is not even asked.
    assert pool.ask(other, "POST", "/v1/features/cad/allocations", {"count": 99}).status == 409
    assert pool.ask(other, "POST", f"/v1/servers/{other}/drain", token=pool.client).status == 403

    records = on_every_disk(pool, 10)
    assert [record["number"] for record in records] == list(range(1, 11))
    whats = [record["what"].split("=")[0].rpartition(" ")[0] for record in records]
    assert whats == [
        "install license",
        "remove authorization",
        "drain",
        "drain",
        "prefer leader",
        "add allocations",
        "set distribution",
        "set borrowing",
        "install license",
        "add allocations",
    ]
    assert records[1]["what"].startswith(f"remove authorization id={seat['id']} holder=1 of cad")
    assert "retired 3" in records[5]["after"]
    assert "entitled cam 5" in records[8]["after"]
    assert records[9]["outcome"] == "refused exceeds_entitlement"
    assert {record["where"] for record in records} == {"127.0.0.1"}
    roles = {record["who"].split(" ")[0] for record in records}
    assert roles == {"admin"}
    by_command = {record["who"] for record in records[1:5]}
    assert len(by_command) == 1
    assert "@" in by_command.pop()  # the name that the command line gives
    for name in pool.names:
        assert stat.S_IMODE(file_of(pool, name).stat().st_mode) == 0o600
        assert pool.admin not in file_of(pool, name).read_text()


def test_a_name_from_a_header_is_one_printable_bounded_text(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30}, servers=1)
    (name,) = pool.names
    for given in ("Zo%C3%AB", "a%0Ab%1B[31m", "%FF%FE", "x" * 5_000, "%"):
        answer = httpx.put(
            f"{pool.urls[name]}/v1/license",
            content=b"sequence: 1",
            headers={"authorization": f"Bearer {pool.admin}", "licraft-user": given},
            trust_env=False,
        )
        assert answer.status_code == 422  # nothing was committed
        path = f"{pool.urls[name]}/v1/servers/{name}/drain"
        for verb in ("drain", "undrain"):
            answer = httpx.post(
                path.removesuffix("drain") + verb,
                headers={"authorization": f"Bearer {pool.admin}", "licraft-user": given},
                trust_env=False,
            )
            assert answer.status_code == 200
    records = on_every_disk(pool, 11)
    names = [record["who"].partition(" (")[2].removesuffix(")") for record in records[1::2]]
    assert names == ["Zo\u00eb", "ab[31m", "\ufffd\ufffd", "x" * 128, "%"]


def test_removed_altered_and_missing_lines_are_found(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool({"cad": 30})
    alpha, beta, _ = pool.names
    for on in ("drain", "undrain", "drain", "undrain"):
        assert pool.ask(beta, "POST", f"/v1/servers/{alpha}/{on}").status == 200
    on_every_disk(pool, 5)
    whole = file_of(pool, alpha).read_text().splitlines()
    path = tmp_path / "audit.log"

    def verdict(changed: list[str], *more: str) -> tuple[int, str]:
        path.write_text("".join(f"{line}\n" for line in changed))
        done = licraft(pool, "audit", "verify", str(path), *more, at=beta)
        return done.returncode, done.stdout

    good, text = verdict(whole)
    assert (good, text.partition(":")[0]) == (0, "good")
    for at in range(4):
        status, text = verdict(whole[:at] + whole[at + 1 :])
        assert (status, f"record {at + 1} is missing" in text) == (1, True), text
    for at in range(5):
        altered = whole[at].replace("admin", "nobody")
        status, text = verdict([*whole[:at], altered, *whole[at + 1 :]])
        assert (status, f"line {at + 1}: it was altered" in text) == (1, True), text
    swapped = [whole[1], whole[0], *whole[2:]]
    assert verdict(swapped)[0] == 1
    # That the end is missing only others can tell: another server's file, or the pool.
    assert verdict(whole[:-1])[0] == 0
    status, text = verdict(whole[:-1], str(file_of(pool, beta)))
    assert (status, "ends with record 4, others with 5" in text) == (1, True), text
    assert verdict(whole[:-1], "--against-pool")[0] == 1
    assert verdict(whole, "--against-pool", str(file_of(pool, beta)))[0] == 0
    assert licraft(pool, "audit", "verify", at=beta).returncode == 0
    # Whoever makes the whole chain anew has another one than the other servers.
    forged = forge(whole)
    assert verdict(forged)[0] == 0
    status, text = verdict(forged, str(file_of(pool, beta)))
    assert (status, "record 2 differs" in text) == (1, True), text


def forge(whole: list[str]) -> list[str]:
    """The chain as somebody would make it anew who has changed its second record."""
    from licraft.core.audit import AuditRecord

    made: list[str] = []
    previous = json.loads(whole[0])["previous"]
    for number, line in enumerate(whole, 1):
        plain = json.loads(line)
        del plain["sha256"]
        plain["previous"] = previous
        plain["who"] = "admin 00000000" if number == 2 else plain["who"]
        record = AuditRecord(**plain)
        made.append(record.line())
        previous = record.sha256
    return made


def test_the_audit_survives_kills_and_is_whole_on_a_server_that_was_away(
    make_pool: MakePool,
) -> None:
    pool = make_pool({"cad": 30})
    leader = pool.leader()
    away, asked = pool.followers()
    pool.kill(away)
    # During an election too: the change is made once there is a leader again, and told once.
    pool.kill(leader)
    pool.start(away)
    wait_for(
        lambda: pool.ask(asked, "POST", f"/v1/servers/{away}/drain").status == 200, 30, "drained"
    )
    pool.start(leader)
    pool.wait_ready(leader, asked)
    wait_for(
        lambda: (
            len({file_of(pool, name).read_text() for name in pool.names}) == 1
            and len(lines(file_of(pool, away))) >= 2
        ),
        15,
        "every server has the same audit",
    )
    seen = pool.get(asked, "/v1/audit").body
    assert seen["count"] == len(lines(file_of(pool, leader)))
    assert seen["records"] == lines(file_of(pool, leader))
    files = [str(file_of(pool, name)) for name in pool.names]
    done = licraft(pool, "audit", "verify", *files, "--against-pool", at=asked)
    assert done.returncode == 0, done.stdout


def test_only_administrators_see_it(make_pool: MakePool) -> None:
    pool = make_pool({"cad": 30}, servers=1)
    (name,) = pool.names
    assert pool.ask(name, "GET", "/v1/audit", token=pool.client).status == 403
    assert licraft(pool, "audit", "show", at=name, token="client").returncode == 5
    shown = licraft(pool, "audit", "show", at=name)
    assert shown.returncode == 0, shown.stderr
    assert "install license" in shown.stdout
    assert pool.ask(name, "GET", "/v1/audit?after=1").body["records"] == []
    assert pool.ask(name, "GET", "/v1/audit?after=-1").status == 400
