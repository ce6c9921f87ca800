"""`licraft audit`: what administrators changed, and whether its record was tampered with.

May import click, `cli.common`, `wire` and, inside `verify`, `core.audit` and the names of a
server's audit files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from licraft.cli.common import DENIED, Pool, pool_options, print_json, printable, say

if TYPE_CHECKING:
    from licraft.core.audit import AuditRecord, Gap
    from licraft.wire import AuditLine

_MAX_LINE = 16 * 1024
_SHOWN = 20


@click.group()
def audit() -> None:
    """What administrators changed, tamper-evident.

    Who, from where, what, before and after: a line each in audit.log of every server's
    data directory, chained by hashes.
    """


@audit.command()
@click.option("--after", type=click.IntRange(0), default=0, help="Only records after this number.")
@pool_options
def show(pool: Pool, after: int) -> None:
    """The last changes (administrator).

    Every server keeps the last 256 in memory, which this shows, and all of them in the
    file audit.log of its data directory.

    \b
    licraft audit show --token-file admin.token
    """
    with pool.client() as client:
        seen = client.audit(after)
    if pool.as_json:
        print_json(seen)
        return
    for r in seen.records:
        click.echo(printable(f"{r.number}  {r.time}  {r.who} from {r.where}: {r.outcome}"))
        for name, text in (("", r.what), ("before: ", r.before), ("after: ", r.after)):
            if text:
                click.echo(printable(f"    {name}{text}"))
    if seen.records and seen.records[0].number > after + 1:
        say(f"older records than {seen.records[0].number} are in audit.log at each server")


@audit.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--first", type=click.IntRange(1), default=1, help="The oldest number expected.")
@click.option("--against-pool", is_flag=True, help="Compare FILEs with what the pool says too.")
@pool_options
def verify(pool: Pool, files: tuple[Path, ...], first: int, against_pool: bool) -> None:
    """Find records that were altered, removed or put elsewhere.

    FILE is the audit.log of a server's data directory, and what was rotated out of it
    (audit.log.1, ...) is read with it. Files of several servers must agree and fill each
    other's gaps. That the last records are missing shows in another server's file, or with
    --against-pool. Without FILE, what the pool has in memory is checked.

    Exit status 1 if anything is wrong.

    \b
    licraft audit verify /var/lib/licraft/alpha/audit.log
    licraft audit verify alpha/audit.log beta/audit.log --against-pool --token-file admin.token
    """
    faults: list[str] = []
    chains = {str(path): _read(path, faults) for path in files}
    if against_pool or not files:
        with pool.client() as client:
            seen = client.audit()
        chains["the pool"] = _told(seen.records, faults)
        known = {r.number for records in chains.values() for r in records}
        if not files:
            first = min(known, default=1)
    found = _merged(chains, faults)
    faults += _chain(found, first)
    last = max(found, default=0)
    for name, records in chains.items():
        if len(chains) > 1 and (end := max((r.number for r in records), default=0)) < last:
            faults.append(f"{name}: ends with record {end}, others with {last}")
    if pool.as_json:
        print_json({"records": len(found), "last": last, "faults": faults})
    else:
        for fault in faults[:_SHOWN]:
            click.echo(f"! {printable(fault)}")
        if len(faults) > _SHOWN:
            click.echo(f"! and {len(faults) - _SHOWN} more")
        word = f"{len(faults)} faults" if faults else "good"
        head = found[last].sha256 if found else "nothing"
        click.echo(f"{word}: {len(found)} records, the last is {last} ({head})")
    if faults:
        raise SystemExit(DENIED)


def _chain(found: dict[int, AuditRecord], first: int) -> Iterable[str]:
    from licraft.core.audit import chain_faults

    return chain_faults([found[number] for number in sorted(found)], first)


def _read(path: Path, faults: list[str]) -> list[AuditRecord]:
    """The records of one server's files, in their order; what is wrong goes into `faults`."""
    from licraft.core.audit import AuditFault, AuditRecord, read_line
    from licraft.server.audit_log import audit_files

    files = audit_files(path)
    if not files:
        raise click.UsageError(f"{path}: there is no such file")
    records: list[AuditRecord] = []
    for file in files:
        for number, text in _lines(file):
            try:
                line: AuditRecord | Gap = read_line(text)
            except AuditFault as fault:
                faults.append(f"{file}, line {number}: {fault}")
                continue
            if isinstance(line, AuditRecord):
                if records and line.number <= records[-1].number:
                    faults.append(
                        f"{file}, line {number}: record {line.number} stands after record"
                        f" {records[-1].number}: twice, or out of order"
                    )
                records.append(line)
    return records


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file, each bounded; the last one may be one whose writing was cut off."""
    try:
        with path.open("rb") as file:
            number = 0
            while data := file.readline(_MAX_LINE):
                number += 1
                yield number, data.decode("ascii", "replace").removesuffix("\n")
    except OSError as fault:
        raise click.UsageError(f"{path}: {fault.strerror}") from None


def _told(lines: Iterable[AuditLine], faults: list[str]) -> list[AuditRecord]:
    """The records as a server tells them."""
    import msgspec

    from licraft.core.audit import AuditRecord

    records = []
    for line in lines:
        plain = msgspec.structs.asdict(line)
        sha256 = plain.pop("sha256")
        record = AuditRecord(**plain)
        if record.sha256 != sha256:
            faults.append(f"the pool: record {record.number} is not what its hash says")
        records.append(record)
    return records


def _merged(chains: dict[str, list[AuditRecord]], faults: list[str]) -> dict[int, AuditRecord]:
    """The records of all chains by number; where two differ, the first is taken."""
    found: dict[int, AuditRecord] = {}
    source: dict[int, str] = {}
    for name, records in chains.items():
        for record in records:
            other = found.setdefault(record.number, record)
            if other.sha256 != record.sha256:
                where = source[record.number]
                faults.append(f"record {record.number} differs between {where} and {name}")
            else:
                source.setdefault(record.number, name)
    return found
