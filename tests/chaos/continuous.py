"""One pool for a long time: visitors come and go, an administrator is busy, the nemesis strikes.

May import the other modules of this folder. What happens is kept in a directory as it happens,
so that a run that is cut short can be looked at too; everything random comes from the seed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.over_issue import now
from support.processes import POOL

from chaos.account import Account, account, table
from chaos.administrator import Administrator
from chaos.crowd import Crowd
from chaos.ending import (
    AUDIT_NAME,
    audit_faults,
    audit_indices,
    digests,
    log_faults,
    table_faults,
)
from chaos.harm import Nemesis
from chaos.history import Audited, Began, Checked, Ended, Finding, History, Keeper, read
from chaos.nemesis import CLOCKS, IN_WORDS, OF_CLOCKS, OF_CUTS, OF_DISKS, Times, plan
from chaos.network import private
from chaos.page import page
from chaos.pool import ChaosPool, Machine
from chaos.reports import FAR, NEAR, Orders, Wish
from chaos.watch import Watch
from licraft.vendor.codes import make_code, read_code
from licraft.vendor.license_file import write_license_file

HISTORY_NAME, PAGE_NAME = "history.jsonl", "report.html"
SHORT = 0.6
"""How many seats there are for each that would be held if everybody came at once."""

RAW = 15
"""How many raw clients come beside the visitors."""

EXPIRES_DAYS = 4
"""When one feature's code expires: sooner than some clocks are moved, so that it would show."""

FAR_PART = 0.15
SETTLED_S = 30.0
_TICK_S = 0.1
_TALLY_S = 5.0
_BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be done: for how long (s), by which seed, and where its history goes."""

    seed: int
    length_s: float
    servers: int
    holders: int
    lease_s: float
    ttl_s: float
    directory: Path
    command: str

    @property
    def wishes(self) -> list[Wish]:
        """Everybody's wish: one in five wants three seats of sim, the others one of cad."""
        threes = self.holders // 5
        return [
            Wish("sim", 3, "") if i < threes else Wish("cad", 1, "") for i in range(self.holders)
        ]

    @property
    def seats(self) -> dict[str, int]:
        """The license: fewer seats than would be wanted at once."""
        threes = self.holders // 5
        return {
            "cad": max(1, round((self.holders - threes) * SHORT)),
            "sim": max(3, round(3 * threes * SHORT)),
        }


def able(machine: Machine) -> list[str]:
    """The kinds of blows that can be dealt on this machine."""
    lacking: set[str] = set()
    if machine.network is None:
        lacking |= {*OF_CUTS, "cut-apart"}
    if not machine.own_disks:
        lacking |= {*OF_DISKS, "disk-full-majority"}
    if not machine.own_clocks:
        lacking |= {*CLOCKS, *OF_CLOCKS}
    return [kind for kind in IN_WORDS if kind not in lacking]


def run(what: Run, machine: Machine) -> int:
    """Play it, judge it and show it; the exit status."""
    what.directory.mkdir(parents=True, exist_ok=True)
    keeper = Keeper(what.directory / HISTORY_NAME)
    cut_short = ""
    try:
        _play(what, machine, keeper)
    except KeyboardInterrupt:
        cut_short = "interrupted"
    except Exception as fault:  # noqa: BLE001  # What happened before is told and judged.
        traceback.print_exc()
        cut_short = f"{type(fault).__name__}: {fault}"
        keeper.note(Finding(now(), "suite", cut_short[:500]))
    keeper.note(Ended(now(), cut_short[:500]))
    keeper.close()
    result = show(what.directory)
    return 1 if result.violations or cut_short else 0


def show(directory: Path) -> Account:
    """Judge the history in a directory; print the table and write the page."""
    history = read(directory)
    result = account(history)
    (directory / PAGE_NAME).write_text(page(history, result), encoding="utf-8")
    print(table(result))
    print(f"{_summary(history, result)}: {directory / PAGE_NAME}", flush=True)
    return result


def _summary(history: History, result: Account) -> str:
    minutes = (history.until_s - history.began.at_s) / 60
    word = f"{len(result.violations)} violations" if result.violations else "no violation"
    cut = history.ended.cut_short if history.ended is not None else "the run was killed"
    return f"seed {history.began.seed}, {minutes:.1f} min, {word}{f' ({cut})' if cut else ''}"


def _play(what: Run, machine: Machine, keeper: Keeper) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="licraft-chaos-", dir=private())
        )
        pool = ChaosPool(
            Path(folder) / "pool",
            machine,
            lease_s=what.lease_s,
            ttl_s=what.ttl_s,
            servers=what.servers,
        )
        stack.callback(pool.close)
        stack.callback(_keep_logs, pool, what.directory)
        if machine.network is not None:
            stack.callback(machine.network.mend)
        pool.start()
        pool.wait_ready(within_s=SETTLED_S)
        install(pool, what.seats)
        keeper.note(_began(what, pool))
        _harm(what, machine, pool, keeper)
        _check(what, pool, keeper)


def _began(what: Run, pool: ChaosPool) -> Began:
    return Began(
        now(),
        datetime.now(UTC).isoformat(timespec="seconds"),
        what.command,
        what.seed,
        list(pool.names),
        what.seats,
        what.holders,
        what.lease_s,
        what.ttl_s,
        what.length_s,
    )


def install(pool: ChaosPool, seats: Mapping[str, int]) -> None:
    """Give the pool its license; the code of one feature expires in a few days."""
    expires = (datetime.now(UTC) + timedelta(days=EXPIRES_DAYS)).date()
    dated = max(seats)
    codes = [
        make_code(
            pool.vendor,
            feature=feature,
            count=count,
            pool=POOL,
            expires=expires if feature == dated else None,
        )
        for feature, count in seats.items()
    ]
    text = write_license_file(POOL, 1, [read_code(code, [pool.vendor.public]) for code in codes])
    answer = pool.ask(pool.names[0], "PUT", "/v1/license", content=text.encode())
    assert answer.status == 200, answer
    pool.wait_everywhere(
        lambda name: pool.get(name, "/v1/license").body["sequence"] == 1, 10, "the license is there"
    )


def _harm(what: Run, machine: Machine, pool: ChaosPool, keeper: Keeper) -> None:
    """The run itself, from the first visitor to the last, and until all is in order again."""
    blows = plan(
        what.seed, what.length_s, pool.names, Times(what.lease_s, what.ttl_s), able(machine)
    )
    nemesis = Nemesis(pool, machine.network, blows, keeper)
    administrator = Administrator(pool, what.seats, what.seed, keeper)
    with ExitStack() as stack:
        crowd = stack.enter_context(Crowd(what.directory / "visitors.log", "chaos.visitors"))
        watch = stack.enter_context(Watch(pool, keeper, lambda: nemesis.stopped))
        stack.callback(nemesis.mend_all)
        _come(what, machine, pool, crowd)
        with administrator:
            _strike(what, nemesis, watch, crowd)
        nemesis.mend_all()
        _settle(pool, nemesis, watch, keeper)
        left = administrator.tidy()
        _finding(keeper, "orders", [f"could not be done in the end: {what}" for what in left])
        crowd.leave()
        _empty(what, pool)


def _come(what: Run, machine: Machine, pool: ChaosPool, crowd: Crowd) -> None:
    wishes = what.wishes
    random.Random(what.seed).shuffle(wishes)
    far = round(len(wishes) * FAR_PART) if machine.network is not None else 0
    for side, part, raw in ((FAR, wishes[:far], 0), (NEAR, wishes[far:], RAW)):
        enter = machine.network.enter(side) if machine.network is not None else []
        if part:
            orders = Orders(
                side, pool.urls, pool.client, what.seed, part, keep_in=str(what.directory), raw=raw
            )
            crowd.gather(orders, enter, pool.environ)


def _strike(what: Run, nemesis: Nemesis, watch: Watch, crowd: Crowd) -> None:
    until_s, tally_s = now() + what.length_s, 0.0
    while now() < until_s:
        nemesis.tick(watch.well())
        if now() > tally_s:
            crowd.tally()  # raises if a process of visitors has ended
            tally_s = now() + _TALLY_S
        time.sleep(_TICK_S)  # between two looks


def _settle(pool: ChaosPool, nemesis: Nemesis, watch: Watch, keeper: Keeper) -> None:
    """Nothing is done any more: all servers come back, and are seen to."""
    until_s = now() + _BACK_S
    while watch.well() != set(pool.names) and now() < until_s:
        nemesis.tick(watch.well())
        time.sleep(_TICK_S)  # between two looks
    lacking = sorted(set(pool.names) - watch.well())
    _finding(keeper, "come back", [f"{name} is not back after all" for name in lacking])


def _empty(what: Run, pool: ChaosPool) -> None:
    """Wait until nothing is in use any more; `table_faults` says what is not so."""

    def used() -> int:
        answers = [pool.get(name, "/v1/features") for name in pool.names]
        return sum(f["in_use"] for a in answers if a.status == 200 for f in a["features"])

    until_s = now() + what.ttl_s * 1.1 + 3 * what.lease_s
    while used() and now() < until_s:
        time.sleep(_TICK_S)  # between two looks


def _check(what: Run, pool: ChaosPool, keeper: Keeper) -> None:
    """The checks of the end; the servers are stopped in between."""
    _finding(keeper, "table", table_faults(pool, what.seats))
    keeper.note(Checked(now(), "table", f"{len(pool.names)} servers tell the same"))
    files = [pool.data(name) / AUDIT_NAME for name in pool.names]
    _finding(keeper, "audit", audit_faults(pool))
    audited = audit_indices(files)
    keeper.note(Audited(audited))
    keeper.note(Checked(now(), "audit", f"{len(audited)} records"))
    try:
        pool.stop(*pool.names)
    except AssertionError as fault:
        _finding(keeper, "processes", [f"no orderly stop: {fault}"])
    found = digests({name: pool.data(name) for name in pool.names})
    _finding(keeper, "digests", list(found.faults))
    shown = next(iter(found.by_server.values()), "none")[:16]
    keeper.note(Checked(now(), "digests", f"{shown} at log index {found.index}"))
    _check_logs(what.directory, pool, keeper)


def _check_logs(directory: Path, pool: ChaosPool, keeper: Keeper) -> None:
    _keep_logs(pool, directory)
    history = read(directory)
    full = {n for f in history.faults if f.broken.kind.startswith("disk") for n in f.broken.targets}
    lines = 0
    for name in pool.names:
        text = (pool.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        lines += text.count("\n")
        _finding(keeper, "logs", log_faults(name, text, disk_was_full=name in full))
    keeper.note(Checked(now(), "logs", f"{lines} lines"))


def _keep_logs(pool: ChaosPool, directory: Path) -> None:
    for name in pool.names:
        log = pool.directory / f"{name}.log"
        if log.exists():
            (directory / log.name).write_bytes(log.read_bytes())


def _finding(keeper: Keeper, check: str, faults: list[str]) -> None:
    for fault in faults:
        print(f"  VIOLATED: {check}: {fault}", file=sys.stderr, flush=True)
        keeper.note(Finding(now(), check, fault))
