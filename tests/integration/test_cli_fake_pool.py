"""The commands that observe a pool and hold its seats, as processes against scripted servers."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from client_fakes import Body, FakePool, Hang, Lose, Reply, eventually

from licraft.cli.main import cli
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.keys import write_keys
from licraft.vendor.license_file import write_license_file
from licraft.wire import MAX_LICENSE_BYTES

ROOT = Path(__file__).parents[2]
GRANT, BEAT, CHECKIN = "/v1/authorizations", "/v1/heartbeats", "/v1/checkins"

FEATURE: Body = {
    "feature": "cad",
    "version": "2026",
    "entitled": 30,
    "deployed": 30,
    "free": 6,
    "in_use": 4,
    "commuters": 0,
    "waiting": 0,
    "denied": 2,
    "starts": None,
    "expires": "2027-12-31",
    "status": "valid",
    "borrowing": {
        "enabled": True,
        "pending": 0,
        "open": [],
        "sources": {"leader": 0, "free": 0, "down": 0, "others": 0},
        "threshold": None,
        "floor": None,
        "cap": None,
    },
    "servers": {
        "alpha": {
            "allocated": 24,
            "in_use": 4,
            "target": None,
            "threshold": 0.8,
            "to_give": 0,
            "retiring": 0,
            "borrowing": True,
            "floor": None,
            "cap": None,
        }
    },
    "to_give": 0,
    "missing": 0,
    "index": 40,
    "over": 0,
    "expires_in_days": 400,
    "warning": None,
    "retired": 0,
}
POOL: Body = {
    "pool": "acme",
    "server": "alpha",
    "state": "serving",
    "leader": "alpha",
    "term": 3,
    "applied_index": 9,
    "priority": ["beta", "alpha"],
    "servers": [
        {
            "name": name,
            "role": role,
            "state": state,
            "url": f"http://{name}:7700",
            "incarnation": 2,
            "lease_remaining": lease,
            "in_use": 4,
            "allocated": 24,
        }
        for name, role, state, lease in (
            ("alpha", "leader", "up", 2.5),
            ("beta", "follower", "down", None),
        )
    ],
    "license": {"sequence": 7, "sha256": "00"},
    "trouble": [],
    "version": "1",
    "pool_key": "a2V5",
}
LICENSE: Body = {"sequence": 7, "text": "pool: acme\n", "codes": []}
HOLDER: Body = {
    "id": "id-1",
    "feature": "cad",
    "count": 1,
    "client": {"id": "c", "user": "ann", "host": "ws12", "pid": 4711, "app": "cad.exe"},
    "server": "alpha",
    "granted_at": "2026-11-21T12:00:00Z",
    "last_heartbeat": "2026-11-21T12:00:20Z",
}
HOLDERS: Body = {"authorizations": [HOLDER], "truncated": True, "as_of": {"beta": None}}


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePool]:
    pool = FakePool()
    alpha = pool.members[0]
    alpha.always["/v1/pool"] = Reply(200, POOL)
    alpha.always["/v1/features"] = Reply(200, {"features": [FEATURE]})
    alpha.always["/v1/features/cad"] = Reply(200, FEATURE)
    monkeypatch.setenv("LICRAFT_SERVERS", ",".join(pool.urls))
    monkeypatch.delenv("LICRAFT_TOKEN", raising=False)
    yield pool
    pool.close()


def licraft(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "licraft", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def problem(status: int, code: str) -> Reply:
    return Reply(status, {"status": status, "code": code, "detail": f"says {code}"})


LOST = Reply(
    200,
    lambda body: {
        "results": [
            {"id": token.split("|")[0], "status": "lost", "code": "no_seats"}
            for token in body["tokens"]
        ]
    },
)

# Observing


def test_status_shows_the_pool_and_its_trouble(pool: FakePool) -> None:
    result = licraft("status")
    assert result.exit_code == 0
    assert "pool acme   leader alpha   license 7   seen by alpha (serving)" in result.stdout
    assert "! server beta is down" in result.stdout
    assert "cad           4        30     6        0  2027-12-31  valid" in result.stdout


def test_status_as_json_has_the_pool_s_fields_and_the_features(pool: FakePool) -> None:
    shown = json.loads(licraft("status", "--json").stdout)
    assert shown == {**POOL, "features": [FEATURE], "trouble": ["server beta is down"]}


def test_status_asks_the_first_server_that_answers(pool: FakePool) -> None:
    alpha, beta = pool.members[:2]
    beta.always.update(alpha.always)
    alpha.stop()
    assert licraft("status").exit_code == 0
    assert [path for path, _ in beta.requests] == ["/v1/pool", "/v1/features"]


def test_no_server_is_exit_status_3_and_says_what_to_do(pool: FakePool) -> None:
    for server in pool.members:
        server.stop()
    result = licraft("status")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert "check that the servers run" in result.stderr


def test_features_and_one_feature(pool: FakePool) -> None:
    assert "cad" in licraft("features").stdout
    one = licraft("features", "cad").stdout
    assert "4 in use of 30 deployed (30 entitled); free pool 6" in one
    assert "alpha        4         24  -       yes            0.8  -      -" in one
    assert json.loads(licraft("features", "--json").stdout) == {"features": [FEATURE]}
    assert json.loads(licraft("features", "cad", "--json").stdout) == FEATURE


def test_an_unknown_feature_is_exit_status_1(pool: FakePool) -> None:
    pool.members[0].always["/v1/features/cam"] = problem(404, "unknown_feature")
    result = licraft("features", "cam")
    assert result.exit_code == 1
    assert "`licraft features` lists" in result.stderr


def test_servers_in_the_order_of_the_priority_list(pool: FakePool) -> None:
    lines = licraft("servers").stdout.splitlines()
    assert [row.split()[0] for row in lines] == ["SERVER", "beta", "alpha"]
    assert "2.5 s" in lines[2]
    assert json.loads(licraft("servers", "--json").stdout)["priority"] == ["beta", "alpha"]


def test_authorizations_are_filtered_and_say_what_is_missing(pool: FakePool) -> None:
    alpha = pool.members[0]
    alpha.always[GRANT] = Reply(200, HOLDERS)
    result = licraft("authorizations", "--feature", "cad", "--user", "ann", "--at", "alpha")
    assert result.exit_code == 0
    assert "ws12  4711  cad.exe" in result.stdout
    assert "beta" in result.stderr
    assert "the list is cut" in result.stderr
    assert alpha.calls(GRANT)[0]["_target"] == f"{GRANT}?feature=cad&user=ann&server=alpha"
    assert json.loads(licraft("authorizations", "--json").stdout) == HOLDERS


def test_tokens_are_sent_and_a_wrong_one_is_exit_status_5(pool: FakePool) -> None:
    pool.members[0].plan("/v1/pool", problem(401, "not_authorized"))
    result = licraft("status", "--token", "secret")
    assert result.exit_code == 5
    assert "LICRAFT_TOKEN" in result.stderr
    assert "secret" not in result.output
    assert "bearer secret" in pool.members[0].requests[0][1]["_head"].lower()


# Changing


def test_checkin_removes_an_authorization(pool: FakePool) -> None:
    path = "/v1/authorizations/id-1"
    pool.members[0].plan(path, Reply(204), problem(404, "not_found"))
    assert licraft("checkin", "id-1").exit_code == 0
    assert pool.members[0].calls(path)[0]["_method"] == "DELETE"
    assert licraft("checkin", "id-1").exit_code == 1


def test_the_license_is_shown(pool: FakePool) -> None:
    pool.members[0].always["/v1/license"] = Reply(200, LICENSE)
    assert "license file number 7" in licraft("license", "show").stdout
    assert licraft("license", "show", "--text").stdout == "pool: acme\n"
    assert json.loads(licraft("license", "show", "--json").stdout) == LICENSE


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (Reply(200, {"sequence": 8, "index": 3}), 0, "number 8 is installed"),
        (problem(409, "stale_sequence"), 4, "says stale_sequence"),
        (problem(422, "invalid_license"), 4, "says invalid_license"),
        (problem(403, "not_authorized"), 5, "says not_authorized"),
        (Lose(), 3, "may or may not"),
    ],
)
def test_a_license_is_installed(
    pool: FakePool, tmp_path: Path, answer: Reply | Lose, status: int, said: str
) -> None:
    (tmp_path / "acme.lic").write_text("sequence: 8\n")
    pool.members[0].plan("/v1/license", answer)
    result = licraft("license", "install", str(tmp_path / "acme.lic"))
    assert result.exit_code == status
    assert said in result.output
    (sent,) = pool.members[0].calls("/v1/license")
    assert (sent["_method"], sent["text"]) == ("PUT", "sequence: 8\n")


def signed_file(folder: Path, **changes: Any) -> str:
    key = write_keys(folder)
    codes = [
        make_code(key, feature="cad", count=5, **changes),
        make_code(key, feature="cam", count=5, expires=date(2020, 1, 1)),
    ]
    read = [read_code(code, [key.public]) for code in codes]
    path = folder / "acme.lic"
    path.write_text(write_license_file("acme", 7, read))
    return str(path)


def test_a_license_file_is_verified_without_a_server(tmp_path: Path) -> None:
    file, key = signed_file(tmp_path, version="2026"), str(tmp_path / "vendor.pub")
    result = licraft("license", "verify", file, "--key", key, "--pool", "acme")
    assert result.exit_code == 0, result.output
    assert "good, number 7, for pool acme" in result.stdout
    shown = json.loads(licraft("license", "verify", file, "--key", key, "--json").stdout)
    assert shown["sequence"] == 7
    found = [(code["feature"], code["version"], code["status"]) for code in shown["codes"]]
    assert found == [("cad", "2026", "valid"), ("cam", None, "expired")]


def test_codes_that_are_bound_to_another_pools_key_are_told(tmp_path: Path) -> None:
    ours, theirs = 43 * "A", 43 * "B"
    file, key = signed_file(tmp_path, pool_key=ours), str(tmp_path / "vendor.pub")
    for given, status in ((ours, "valid"), (theirs, "other_pool")):
        arguments = ("--key", key, "--pool-key", given, "--json")
        shown = json.loads(licraft("license", "verify", file, *arguments).stdout)
        assert shown["codes"][0]["status"] == status


def test_a_license_file_that_a_pool_would_refuse_is_exit_status_4(tmp_path: Path) -> None:
    file, key = signed_file(tmp_path), str(tmp_path / "vendor.pub")
    write_keys(tmp_path / "other")
    other = str(tmp_path / "other" / "vendor.pub")
    for arguments in (["--key", key, "--pool", "globex"], ["--key", other]):
        result = licraft("license", "verify", file, *arguments)
        assert result.exit_code == 4, result.output
        assert result.stderr.startswith(f"licraft: {file}: line ")
        assert result.stdout == ""


@pytest.mark.parametrize("key", ["nowhere.pub", "acme.lic", "vendor.key"])
def test_a_file_that_is_no_public_key_is_a_fault_of_usage(tmp_path: Path, key: str) -> None:
    file = signed_file(tmp_path)
    result = licraft("license", "verify", file, "--key", str(tmp_path / key))
    assert result.exit_code == 2
    assert key in result.stderr


NOT_LICENSES = [
    (b"pool: acme\nsequence: 8\ncodes: \xe4\n", "line 3: the license file is not UTF-8 text"),
    ("sequence: 8\n".encode("utf-16"), "UTF-16"),
    (b"#" * (MAX_LICENSE_BYTES + 1), "larger than"),
    (b"", "is empty"),
]


@pytest.mark.parametrize(("content", "said"), NOT_LICENSES)
@pytest.mark.parametrize("command", ["install", "verify", "diff", "inspect"])
def test_what_cannot_be_a_license_file_is_exit_status_4(
    pool: FakePool, tmp_path: Path, command: str, content: bytes, said: str
) -> None:
    write_keys(tmp_path)
    refused = Reply(422, {"status": 422, "code": "invalid_license", "detail": said})
    (tmp_path / "bad.lic").write_bytes(content)
    pool.members[0].always["/v1/license"] = refused
    arguments = {
        "install": ["license", "install"],
        "verify": ["license", "verify", "--key", str(tmp_path / "vendor.pub")],
        "diff": ["license", "diff"],
        "inspect": ["vendor", "inspect"],
    }[command]
    result = licraft(*arguments, str(tmp_path / "bad.lic"))
    assert result.exit_code == 4, result.output
    assert f"{tmp_path / 'bad.lic'}: " in result.stderr
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    told = [] if content else ["PUT"] * (command == "install")
    assert [call["_method"] for call in pool.members[0].calls("/v1/license")] == told


# Holding


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_checkout_holds_until_it_is_ended(pool: FakePool, number: signal.Signals) -> None:
    process = started("checkout", "cad", "-n", "2", "--json")
    held = json.loads(line(process))
    assert (held["feature"], held["count"], held["server"]) == ("cad", 2, "alpha")
    process.send_signal(number)
    status, _, errors = finished(process)
    assert (status, errors) == (0, "")
    assert len(pool.members[0].calls(CHECKIN)) == 1


def test_checkout_that_is_denied(pool: FakePool) -> None:
    pool.members[0].plan(GRANT, problem(409, "no_seats"))
    result = licraft("checkout", "cad")
    assert result.exit_code == 1
    assert "--wait waits" in result.stderr


def test_checkout_interrupted_while_it_waits(pool: FakePool) -> None:
    pool.members[0].plan(GRANT, Hang())
    process = started("checkout", "cad", "--wait", "60")
    eventually(lambda: pool.members[0].calls(GRANT), 20)
    process.send_signal(signal.SIGINT)
    status, _, errors = finished(process)
    assert (status, errors.strip()) == (130, "licraft: interrupted")


def test_checkout_ends_when_the_seat_is_lost(pool: FakePool) -> None:
    pool.ttl = 2.0
    process = started("checkout", "cad")
    assert line(process).startswith("holding 1 of cad at alpha, id ")
    for server in pool.members:
        server.stop()
    status, _, errors = finished(process)
    assert status == 1
    assert "the seat of cad was lost: no license server answered in time" in errors


def test_exec_runs_the_command_with_a_seat(pool: FakePool) -> None:
    text = 'echo "$LICRAFT_SEAT_ID $LICRAFT_FEATURE $LICRAFT_SERVER"; cat; exit 7'
    done = subprocess.run(
        [sys.executable, "-m", "licraft", "exec", "cad", "-n", "3", "--", "sh", "-c", text],
        cwd=ROOT,
        input="input\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    (asked,) = pool.members[0].calls(GRANT)
    assert done.returncode == 7
    assert done.stdout == f"{asked['id']} cad alpha\ninput\n"
    assert asked["count"] == 3
    assert len(pool.members[0].calls(CHECKIN)) == 1


def test_exec_does_not_run_what_has_no_seat(pool: FakePool) -> None:
    pool.members[0].plan(GRANT, problem(409, "no_seats"))
    status, output, errors = finished(started("exec", "cad", "--", "echo", "ran"))
    assert (status, output) == (1, "")
    assert "says no_seats" in errors


def test_exec_says_why_a_command_cannot_be_run(pool: FakePool, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    missing = finished(started("exec", "cad", "--", str(tmp_path / "missing")))
    assert (missing[0], missing[2].count("command not found")) == (127, 1)
    forbidden = finished(started("exec", "cad", "--", str(plain)))
    assert (forbidden[0], forbidden[2].count("Permission denied")) == (126, 1)
    plain.chmod(plain.stat().st_mode | stat.S_IXUSR)
    assert finished(started("exec", "cad", "--", str(plain)))[0] == 126
    assert len(pool.members[0].calls(CHECKIN)) == 3


ENDLESS = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
PASSED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", PASSED)
def test_exec_passes_signals_on(pool: FakePool, number: signal.Signals) -> None:
    text = f"trap 'echo got; exit 3' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = started("exec", "cad", "--", "sh", "-c", text)
    assert line(process) == "ready"
    process.send_signal(number)
    assert finished(process)[:2] == (3, "got\n")
    assert len(pool.members[0].calls(CHECKIN)) == 1


def test_exec_s_status_says_which_signal_ended_the_command(pool: FakePool) -> None:
    process = started("exec", "cad", "--", "sh", "-c", "echo ready; exec sleep 30")
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 128 + signal.SIGTERM


def test_the_command_has_the_signals_it_would_have_without_us(pool: FakePool) -> None:
    text = "grep -E 'Sig(Blk|Ign)' /proc/self/status"
    alone = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    process = started("exec", "cad", "--", "sh", "-c", text)

    def masks(printed: str) -> list[int]:
        ordinary = (1 << 31) - 1  # 32 and 33 are the C library's own
        return [int(word, 16) & ordinary for word in printed.split()[1::2]]

    assert masks(finished(process)[1]) == masks(alone.stdout)


def test_exec_ends_the_command_when_the_seat_is_lost(pool: FakePool) -> None:
    pool.ttl = 2.0
    process = started("exec", "cad", "--", "sh", "-c", "echo ready; exec sleep 30")
    assert line(process) == "ready"
    for server in pool.members:
        server.stop()
    status, _, errors = finished(process)
    assert status == 1
    assert "the seat of cad was lost: no license server answered in time; ending" in errors


def test_exec_ends_the_command_when_a_server_takes_the_seat(pool: FakePool) -> None:
    pool.members[0].plan(BEAT, LOST)
    pool.ttl = 3.0
    process = started("exec", "cad", "--", "sh", "-c", ENDLESS)
    status, _, errors = finished(process)
    assert status == 1
    assert "the seat of cad was lost: no_seats" in errors


def test_exec_does_not_look_only_now_and_then(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The news of a loss wakes it: here it would look again only after 20 s."""
    monkeypatch.setattr("licraft.cli.hold.LOOK_S", 60.0)
    alpha = pool.members[0]
    pool.ttl = 20.0
    alpha.plan(GRANT, Reply(201, lambda body: {**alpha.authorization(body), "heartbeat": 1.0}))
    alpha.plan(BEAT, LOST)
    before = time.monotonic()
    assert licraft("exec", "cad", "--", "sh", "-c", ENDLESS).exit_code == 1
    assert time.monotonic() - before < 10


def test_only_the_main_thread_takes_signals(pool: FakePool) -> None:
    text = "grep -h SigBlk /proc/$PPID/task/*/status"
    masks = finished(started("exec", "cad", "--", "sh", "-c", text))[1].split()[1::2]
    assert len(masks) > 1
    assert all(int(mask, 16) & 1 << signal.SIGTERM - 1 for mask in masks[1:])


def test_exec_kills_a_command_that_does_not_end(pool: FakePool) -> None:
    pool.ttl = 2.0
    text = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    process = started("exec", "cad", "--grace", "0.3", "--", "sh", "-c", text)
    assert line(process) == "ready"
    for server in pool.members:
        server.stop()
    status, _, errors = finished(process)
    assert status == 1
    assert "did not end within 0.3 s; killing it" in errors


def test_a_key_on_the_terminal_reaches_the_command_once(pool: FakePool) -> None:
    """On a terminal, Ctrl-C goes to the whole process group: it is not passed on again."""
    text = (
        "import os, signal, time\n"
        "heard, noted = os.pipe()\n"
        "os.set_blocking(noted, False)\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "signal.set_wakeup_fd(noted)\n"  # one byte for each signal, however close they come
        "print('ready', flush=True)\n"
        "first = os.read(heard, 1)\n"
        "time.sleep(0.3)\n"
        "os.set_blocking(heard, False)\n"
        "os.write(noted, b'.')\n"
        "print('got', len(os.read(heard, 100)), flush=True)\n"
    )
    pid, terminal = os.forkpty()
    if pid == 0:  # the command line itself, with a terminal of its own
        os.chdir(ROOT)
        command = [sys.executable, "-m", "licraft", "exec", "cad", "--", sys.executable, "-c", text]
        os.execv(sys.executable, command)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"got" not in seen or not seen.endswith(b"\n"):
        seen += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"got 1" in seen
