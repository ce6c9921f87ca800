"""Malformed and hostile license files at a pool of real processes: refused, nothing changed.

A choice of the corpus that the unit tests go through whole: here it is seen that a refusal
reaches the caller of any server, with its cause, and that it costs the pool nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.bad_codes import Bad, Vendor
from support.bad_licenses import bad_files
from support.processes import Answer, ServerPool, stranger

from licraft.vendor.codes import make_code
from licraft.vendor.license_file import MAX_CODES

pytest_plugins = ["support.pool_fixtures"]

CHOSEN = (
    *("a comment", "a code alone", "a billion laughs", "a tag that runs", "a merge key"),
    *("a key twice", "two documents", "many tags", "many numbers", "many codes of dust"),
    *(
        "the character 0x1b",
        "utf-16-le without",
        "sequence 0",
        f"sequence {2**64}",
        "pool umbrella",
    ),
    *("distribution ../x:1", "threshold .nan", "a code another vendor's", "a code twice"),
    *("a code with another's signature", "character 0 of a signature changed"),
    *("code signed: starts '2026-02-30'", "code signed: count -1", "code signed: feature '..'"),
)
# A refusal of the worst takes a second or two; three servers share this machine.
WITHIN_S = 15.0


def traces(pool: ServerPool) -> list[object]:
    """What every server has of the license: in its state, and on its disk."""
    return [
        [
            pool.get(name, "/v1/license").body,
            (pool.directory / "data" / name / "license.yaml").read_bytes(),
            pool.feature(name)["deployed"],
        ]
        for name in pool.names
    ]


@pytest.fixture(autouse=True)
def _nothing_changed(calm: ServerPool) -> Iterator[None]:
    before = traces(calm)
    yield
    assert traces(calm) == before
    assert calm.unbalanced() == []
    for name in calm.names:
        held = calm.checkout(name)["token"]
        assert calm.status_of(name, held) == "renewed"
        assert len(calm.checkin(name, held)["released"]) == 1


@pytest.fixture(scope="module")
def cases(calm: ServerPool) -> dict[str, Bad]:
    """The chosen files, made by the vendor whom the pool trusts."""
    made = {case.name: case for case in bad_files(Vendor(calm.vendor, stranger()))}
    return {name: made[name] for name in CHOSEN}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_bad_file_is_refused_at_a_server_that_does_not_lead(
    calm: ServerPool, cases: dict[str, Bad], name: str
) -> None:
    case, follower = cases[name], calm.followers()[0]
    begun = time.monotonic()
    answer = calm.ask(follower, "PUT", "/v1/license", content=case.data, timeout_s=WITHIN_S)
    assert time.monotonic() - begun < WITHIN_S
    assert (answer.status, answer.code) == (422, "invalid_license"), answer.body
    assert re.search(case.cause, answer["detail"])
    if case.line is not None:
        assert f"line {case.line}: " in answer["detail"]


def test_the_command_line_says_why_and_ends_with_4(
    calm: ServerPool, cases: dict[str, Bad], tmp_path: Path
) -> None:
    follower = calm.followers()[-1]
    key = str(calm.directory / "vendor.pub")
    for name in ("a tag that runs", "a code another vendor's", "pool umbrella", "a comment"):
        file = tmp_path / "bad.lic"
        file.write_bytes(cases[name].data)
        for command in (
            ["license", "install", str(file), "--server", calm.urls[follower]],
            ["license", "verify", str(file), "--key", key, "--pool", "acme"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "licraft", *command],
                env={**calm.environ, "LICRAFT_TOKEN": calm.admin},
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 4, (name, command, done.stderr)
            assert re.search(cases[name].cause, done.stderr)
            assert len(done.stderr.splitlines()) == 1
            assert done.stdout == ""


def test_a_file_at_the_limits_with_one_foreign_code_is_refused_and_holds_nobody_up(
    calm: ServerPool,
) -> None:
    codes = [make_code(calm.vendor, feature=f"f{n % 1000}", count=1) for n in range(MAX_CODES)]
    codes[-1] = make_code(stranger(), feature="f999", count=1)
    lines = "".join(f"- code: {code}\n" for code in codes)
    content = f"pool: acme\nsequence: 50\ncodes:\n{lines}".encode()
    follower = calm.followers()[0]
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(
            calm.ask, follower, "PUT", "/v1/license", content=content, timeout_s=WITHIN_S
        )
        granted: list[Answer] = []
        slowest_s = 0.0
        while not refused.done():
            asked = time.monotonic()
            granted.append(calm.checkout(follower, "sim", id=f"while-{len(granted)}"))
            slowest_s = max(slowest_s, time.monotonic() - asked)
    answer = refused.result()
    took_s = time.monotonic() - begun
    print(f"{len(content)} bytes refused in {took_s:.2f} s; slowest checkout {slowest_s:.3f} s")
    assert slowest_s < calm.lease_s
    assert (answer.status, answer.code) == (422, "invalid_license"), answer.body
    assert f"line {3 + MAX_CODES}: code {MAX_CODES}: 1 of f999" in answer["detail"]
    # While it was being read, the same server went on granting.
    held = [grant["token"] for grant in granted if grant.status == 201]
    assert held
    calm.checkin(follower, *held)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"pool: \xff\n", 422, "invalid_license"),
        (b"\xff\xfep\0o\0", 422, "invalid_license"),
        (b"", 422, "invalid_license"),
        (b"#" * (3 * 1024 * 1024 + 1), 413, "too_large"),
    ],
    ids=["Latin-1", "UTF-16", "empty", "large"],
)
def test_what_is_no_text_or_too_large_is_no_license_file(
    calm: ServerPool, content: bytes, status: int, code: str
) -> None:
    answer = calm.ask(calm.followers()[0], "PUT", "/v1/license", content=content)
    assert (answer.status, answer.code) == (status, code)
