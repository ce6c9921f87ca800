"""How long does it take until a large license is installed on every server?

A pool of three real servers at default settings, which has a license of one code. Then at a
server that does not lead a file is installed by `PUT /v1/license`: 5,000 codes over 1,000
features, one code for 1,000,000 seats, nearly all with criteria and a threshold of their own.
Measured are the times from the request on

* until it is answered, which is after commit;
* until this very file is on the disk of every server;
* until every server has answered `GET /v1/features` with all of its features and seats.

Meanwhile a client asks every server for a seat of the first license, one request after the
other: the longest such request says how long a server stood still. The next round installs the
same codes again, with a greater number: that is what adding one code to such a file costs.

Usage: python -m benchmarks.license_install [--codes 5000] [--features 1000] [--rounds 3]
       [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from benchmarks.figures import machine, machine_line
from benchmarks.systems import FEATURE, POOL, Cluster, licraft_servers
from benchmarks.wrk_load import table
from licraft.core.license import LicenseCode
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.license_file import write_license_file
from licraft.wire import MAX_COUNT

_SERVERS = 3
_SEATS = 10
_WITHIN_S = 60.0
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Install:
    """One installation, in seconds from its request on; `checkout_ms` is the worst meanwhile."""

    number: int
    file_bytes: int
    answered_s: float
    on_every_disk_s: float
    every_server_answers_s: float
    listing_ms: float
    checkout_ms: float


def measure(codes: int, features: int, rounds: int) -> Iterator[Install]:
    """Install the license as often as `rounds` says, each time with the next number."""
    with licraft_servers(_SERVERS, {FEATURE: 100}) as pool:
        assert pool.vendor is not None
        print(f"signing {codes} codes", file=sys.stderr)
        read = [read_code(make_code(pool.vendor, feature=FEATURE, count=100), ())]
        read += [_code(pool, number, features) for number in range(codes - 1)]
        expected = _expected(codes, features)
        for number in range(2, rounds + 2):
            print(f"installing number {number}", file=sys.stderr)
            text = write_license_file(POOL, number, read)
            yield _installed(pool, number, text, expected)


def _code(pool: Cluster, number: int, features: int) -> LicenseCode:
    assert pool.vendor is not None
    count = _SEATS if number else MAX_COUNT
    text = make_code(
        pool.vendor,
        feature=_name(number, features),
        count=count,
        version="2026",
        pool=POOL,
        options={"edition": "professional"},
    )
    shares = tuple((name, count // _SERVERS) for name in pool.urls)
    return replace(read_code(text, ()), distribution=shares, threshold=0.8)


def _expected(codes: int, features: int) -> dict[str, int]:
    """The seats that every server is to tell, by feature."""
    seats = {FEATURE: 100}
    for number in range(codes - 1):
        name = _name(number, features)
        seats[name] = seats.get(name, 0) + (_SEATS if number else MAX_COUNT)
    return seats


def _name(number: int, features: int) -> str:
    """The feature of a code; one more is that of the first license."""
    return f"feature-{number % (features - 1):04d}"


def _installed(pool: Cluster, number: int, text: str, expected: dict[str, int]) -> Install:
    """Install one file and follow it."""
    copies = [pool.folder / "data" / name / "license.yaml" for name in pool.urls]
    with _client(pool.admin_token) as client, _asking(pool) as slowest_ms:
        at = _follower(client, pool)
        began = time.monotonic()
        answer = client.put(f"{at}/v1/license", content=text.encode())
        answered_s = time.monotonic() - began
        if not answer.is_success:
            sys.exit(f"the file was not installed: {answer.text[:300]}")
        _wait(lambda: all(_read(path) == text for path in copies), "on every disk")
        on_every_disk_s = time.monotonic() - began
        listing_ms = max(_list(client, url, expected) for url in pool.urls.values())
        every_server_answers_s = time.monotonic() - began
    return Install(
        number,
        len(text.encode()),
        answered_s,
        on_every_disk_s,
        every_server_answers_s,
        listing_ms,
        slowest_ms[0],
    )


def _list(client: httpx.Client, url: str, expected: dict[str, int]) -> float:
    """How long a server takes to answer with all features, in ms; SystemExit if one lacks."""
    began = time.monotonic()
    answer = client.get(f"{url}/v1/features").raise_for_status().json()
    took_ms = (time.monotonic() - began) * 1e3
    if {f["feature"]: f["entitled"] for f in answer["features"]} != expected:
        sys.exit(f"{url} has the file, but not its seats")
    return took_ms


@contextmanager
def _asking(pool: Cluster) -> Iterator[list[float]]:
    """Check seats out and in at all servers while the block runs; yields the longest time, in ms.

    SystemExit if one was refused.
    """
    slowest_ms = [0.0]
    refused: list[str] = []
    over = threading.Event()

    def ask() -> None:
        with _client(pool.client_token) as client:
            while not over.is_set():
                for url in pool.urls.values():
                    began = time.monotonic()
                    answer = client.post(f"{url}/v1/authorizations", json={"feature": FEATURE})
                    slowest_ms[0] = max(slowest_ms[0], (time.monotonic() - began) * 1e3)
                    if answer.status_code != 201:
                        refused.append(answer.text[:300])
                        continue
                    tokens = {"tokens": [answer.json()["token"]]}
                    client.post(f"{url}/v1/checkins", json=tokens)
                over.wait(_LOOK_S)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    try:
        yield slowest_ms
    finally:
        over.set()
        asker.join(_WITHIN_S)
    if refused:
        sys.exit(f"{len(refused)} checkouts were refused meanwhile: {refused[0]}")


def _client(token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(headers=headers, timeout=_WITHIN_S, trust_env=False)


def _follower(client: httpx.Client, pool: Cluster) -> str:
    """The address of a server that does not lead."""
    first = next(iter(pool.urls.values()))
    leader = client.get(f"{first}/v1/pool").raise_for_status().json()["leader"]
    return [url for name, url in pool.urls.items() if name != leader][-1]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {_WITHIN_S:.0f} s: {what}")
        time.sleep(_LOOK_S)


def _row(one: Install) -> list[str]:
    times = (one.answered_s, one.on_every_disk_s, one.every_server_answers_s)
    return [
        str(one.number),
        f"{one.file_bytes / 1e6:.2f}",
        *(f"{s:.2f}" for s in times),
        f"{one.listing_ms:.0f}",
        f"{one.checkout_ms:.0f}",
    ]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--codes", type=int, default=5_000)
    parser.add_argument("--features", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found = list(measure(options.codes, options.features, options.rounds))
    print(f"{machine_line()}\n")
    print(f"{options.codes} codes over {options.features} features, {_SERVERS} servers:\n")
    heads = ["number", "MB", "answered s", "all disks s", "all servers s", "listing ms"]
    print(table([*heads, "worst checkout ms"], [_row(one) for one in found]))
    if options.json:
        document = {
            "machine": machine(),
            "codes": options.codes,
            "features": options.features,
            "results": [asdict(one) for one in found],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
