"""`licraft vendor`: what the software vendor runs to make keys, codes and license files.

May import click, `cli.common` and the vendor room. Needs no server. Codes go to
standard output, alone, so that they can be piped; everything else goes to standard
error. A passphrase is never an argument: those are in the process list and in the
shell's history.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path

import click

from licraft.cli import passphrases
from licraft.cli.common import (
    named,
    naming,
    print_json,
    print_table,
    printable,
    read_bytes,
    read_license,
    say,
)
from licraft.core.distribution import format_distribution
from licraft.core.license import LicenseCode, LicenseFile
from licraft.errors import LicenseError
from licraft.vendor.codes import distrust, make_code, read_code, sign_payload
from licraft.vendor.keys import (
    PRIVATE_NAME,
    PUBLIC_NAME,
    VendorPrivateKey,
    VendorPublicKey,
    is_locked,
    load_private_key,
    load_public_key,
    write_keys,
)
from licraft.vendor.license_file import (
    MAX_CODES,
    MAX_SEQUENCE,
    parse_license_file,
    read_license_file,
    write_license_file,
)
from licraft.vendor.mending import altered_place
from licraft.vendor.paste import PREFIX, readings, split_codes
from licraft.wire import MAX_COUNT

MAX_PAYLOADS_BYTES = 16 * 1024 * 1024
_SHOWN_FAULTS = 10
_COLUMNS = (
    *("FEATURE", "COUNT", "VERSION", "STARTS", "EXPIRES", "POOL"),
    *("ID", "VENDOR", "OPTIONS", "SIGNATURE"),
)

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for scripts.")
_PASSPHRASE_FILE = click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The file with the key's passphrase; else {passphrases.VARIABLE}, else asked for.",
)
_KEY = click.option(
    "--key",
    "key_path",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help=f"The vendor's private key ({PRIVATE_NAME}).",
)


class _Refused(click.ClickException):
    """What was asked cannot be done: exit status 2, like every fault of usage."""

    exit_code = 2


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except LicenseError as fault:
        raise _Refused(str(fault)) from fault


@click.group()
def vendor() -> None:
    """Make keys, codes and license files (vendor)."""


# -- keys ---------------------------------------------------------------------------------


@vendor.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--passphrase",
    "ask",
    is_flag=True,
    help="Lock the private key with a passphrase, which is asked for.",
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Lock it with the passphrase in FILE, or in {passphrases.VARIABLE}.",
)
@_AS_JSON
def keygen(directory: Path, ask: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key pair in DIR: vendor.key (private) and vendor.pub.

    \b
    licraft vendor keygen vendor
    licraft vendor keygen vendor --passphrase
    """
    with _refusals():
        passphrase = passphrases.given(passphrase_file)
        if ask and passphrase is None:
            passphrase = passphrases.asked("New passphrase", twice=True)
        key = write_keys(directory, passphrase)
    private, public = directory / PRIVATE_NAME, directory / PUBLIC_NAME
    fingerprint, locked = key.public.fingerprint, passphrase is not None
    if as_json:
        paths = {"private": str(private), "public": str(public)}
        click.echo(json.dumps({**paths, "fingerprint": fingerprint, "locked": locked}))
        return
    click.echo(f"vendor key {fingerprint}{', locked with the passphrase' if locked else ''}")
    click.echo(
        f"  {private}  private: makes license codes; back it up, keep it off license servers"
    )
    click.echo(f"  {public}  public: every license server names it in `vendor_keys`")


def _private_key(path: Path, passphrase_file: Path | None) -> VendorPrivateKey:
    """The private key; its passphrase, if it has one, is asked for unless it is given."""
    with _refusals():
        if not is_locked(path):
            return load_private_key(path)
        passphrase = passphrases.given(passphrase_file)
        if passphrase is None:
            passphrase = passphrases.asked(f"Passphrase of {path}")
        return load_private_key(path, passphrase)


# -- codes --------------------------------------------------------------------------------


def _options(context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> object:
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        if name in options:
            raise click.BadParameter(f"{name!r} is given twice")
        options[name] = value
    return options


def _day(context: click.Context, parameter: click.Parameter, day: str | None) -> date | None:
    """A day as YYYY-MM-DD, and in no other form: which comes first differs by country."""
    if day is None:
        return None
    try:
        return datetime.strptime(day, "%Y-%m-%d").date()
    except ValueError:
        raise click.BadParameter(f"{day!r}: expected YYYY-MM-DD, as in 2027-12-31") from None


@vendor.command()
@_KEY
@click.option("--feature", required=True, help="What the seats are for.")
@click.option("--count", required=True, type=click.IntRange(1, MAX_COUNT), help="How many seats.")
@click.option("--version", help="Covers this version and older ones; default: every version.")
@click.option("--starts", callback=_day, metavar="DAY", help="First day, UTC.")
@click.option("--expires", callback=_day, metavar="DAY", help="Last day, UTC.")
@click.option("--pool", help="The only pool that may use the code; default: any.")
@click.option(
    "--pool-key",
    metavar="KEY",
    help="Bind the code to the pool that has this key, as `licraft pool request` prints it.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_options,
    help="Something that the program reads; repeat for more.",
)
@click.option("--vendor", "vendor_name", help="The vendor's name; default: the key's fingerprint.")
@click.option("--id", "code_id", help="The code's own name; default: 16 random characters.")
@_PASSPHRASE_FILE
@_AS_JSON
def code(
    key_path: Path,
    feature: str,
    count: int,
    version: str | None,
    starts: date | None,
    expires: date | None,
    pool: str | None,
    pool_key: str | None,
    options: dict[str, str],
    vendor_name: str | None,
    code_id: str | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Print one signed license code. Days are YYYY-MM-DD, both inclusive.

    \b
    licraft vendor code --key vendor.key --feature cad --count 100 --expires 2027-12-31
    """
    key = _private_key(key_path, passphrase_file)
    with _refusals():
        text = make_code(
            key,
            feature=feature,
            count=count,
            vendor=vendor_name,
            id=code_id,
            version=version,
            starts=starts,
            expires=expires,
            pool=pool,
            options=options,
            pool_key=pool_key,
        )
        made = read_code(text, [key.public])
    click.echo(json.dumps({"code": text, "id": made.id}) if as_json else text)


@vendor.command()
@click.argument("file", metavar="[FILE]", default="-")
@_KEY
@_PASSPHRASE_FILE
@_AS_JSON
def sign(file: str, key_path: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign payloads of your own system: a code each.

    FILE (default: standard input) has one JSON object a line. `feature` and `count` are
    required; `version`, `starts`, `expires`, `pool`, `pool_key`, `options`, `vendor` and
    `id` are as in `vendor code`. If any is faulty, none is signed.

    \b
    echo '{"feature": "cad", "count": 5, "expires": "2027-12-31"}' |
        licraft vendor sign --key vendor.key
    """
    data = read_bytes(file, MAX_PAYLOADS_BYTES + 1)
    if len(data) > MAX_PAYLOADS_BYTES:
        raise click.UsageError(f"{named(file)}: larger than {MAX_PAYLOADS_BYTES} bytes")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    payloads = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    if not payloads:
        raise click.UsageError(f"{named(file)} has no payload: expected a JSON object a line")
    key = _private_key(key_path, passphrase_file)
    made: dict[str, tuple[int, str]] = {}
    faults = []
    for number, payload in payloads.items():
        try:
            text = sign_payload(key, payload)
        except LicenseError as fault:
            faults.append(f"line {number}: {fault}")
            continue
        id = read_code(text, ()).id
        if id in made:
            faults.append(f"line {number}: its id {id} is that of line {made[id][0]}")
        made[id] = (number, text)
    for line in _shortened(faults):
        say(f"{named(file)}: {line}")
    if faults:
        raise _Refused(
            f"{named(file)}: {len(faults)} of {len(payloads)} payloads are faulty: none was signed"
        )
    if as_json:
        rows = [{"line": n, "id": id, "code": text} for id, (n, text) in made.items()]
        click.echo(json.dumps({"codes": rows}))
        return
    click.echo("\n".join(text for _, text in made.values()))


@vendor.command("file")
@click.argument("codes", metavar="[CODE|FILE]...", nargs=-1)
@click.option(
    "--sequence",
    required=True,
    type=click.IntRange(1, MAX_SEQUENCE),
    help="Greater than that of the file that the pool has now.",
)
@click.option("--pool", help="The only pool that may install the file; default: any.")
def license_file(codes: tuple[str, ...], sequence: int, pool: str | None) -> None:
    """Print a license file of codes.

    Codes are given here, in a FILE or on standard input; there each begins a line.

    \b
    licraft vendor file --sequence 1 --pool acme cad.code sim.code > acme.lic
    licraft vendor sign orders.json --key vendor.key | licraft vendor file --sequence 2 > acme.lic
    """
    with _refusals():
        texts = [text for part in codes or ("-",) for text in _codes_of(part)]
    if not texts:
        raise click.UsageError("no license code is given, here or on standard input")
    if len(texts) > MAX_CODES:
        raise click.UsageError(f"{len(texts)} codes are given; a file holds at most {MAX_CODES}")
    with _refusals():
        written = write_license_file(pool, sequence, _read_codes(texts))
        parse_license_file(written, ())
    click.echo(written, nl=False)


# -- what a code or a file says -----------------------------------------------------------


@vendor.command()
@click.argument("what", metavar="CODE|FILE|-", nargs=-1, required=True)
@click.option(
    "--pub",
    "public_paths",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help=f"Check signatures with this public key ({PUBLIC_NAME}); repeat for more.",
)
@click.option(
    "--key",
    "key_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"... or with this private key ({PRIVATE_NAME}).",
)
@_PASSPHRASE_FILE
@_AS_JSON
def inspect(
    what: tuple[str, ...],
    public_paths: tuple[Path, ...],
    key_path: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Say what codes, or a license file, contain.

    A code is taken as it was pasted: with white space, line wraps, the quoting marks of
    mail, and dashes for hyphens. With --pub or --key it is also told whether that key
    signed it and, if one character was changed, which. Exit status 4 if it is malformed
    or the signature is not good.

    \b
    licraft vendor inspect LIC1.eyJ... --pub vendor.pub
    licraft vendor inspect acme.lic
    """
    with _refusals():
        keys = [load_public_key(path) for path in public_paths]
    if key_path is not None:
        keys.append(_private_key(key_path, passphrase_file).public)
    given = any(f"{PREFIX}." in part for part in what)
    text = "\n".join(what) if given else read_license(_only(what))
    if text.lstrip("\ufeff \t\r\n>|\"'").startswith(f"{PREFIX}."):
        _inspect_codes(split_codes(text), keys, as_json)
        return
    with naming(what[0]):
        file = parse_license_file(text, keys)
        _show(file.codes, keys, as_json, file)
        if keys:
            read_license_file(text, keys, file.pool or "")


def _inspect_codes(texts: list[str], keys: Sequence[VendorPublicKey], as_json: bool) -> None:
    """Show the codes that can be read; LicenseError for the others, and for untrusted ones."""
    codes: list[LicenseCode] = []
    faults: list[str] = []
    for number, text in enumerate(texts, start=1):
        cause = ""
        try:
            found = read_code(text, keys)
            codes.append(found)
            if keys and not found.trusted:
                cause = distrust(found, keys)
        except LicenseError as fault:
            cause = str(fault)
        if cause:
            # It takes a second or two to find out where: once is enough.
            where = "" if faults else _altered(text, keys)
            faults.append(f"{f'code {number}: ' if len(texts) > 1 else ''}{cause}{where}")
    if codes:
        _show(codes, keys, as_json)
    if faults:
        raise LicenseError("; ".join(_shortened(faults)))


def _altered(text: str, keys: Sequence[VendorPublicKey]) -> str:
    try:
        step = altered_place(readings(text)[0], keys)
    except LicenseError:
        return ""
    return f": {step}" if step else ""


def _only(what: tuple[str, ...]) -> str:
    if len(what) > 1:
        raise click.UsageError(f"{what[1]!r}: give one file, or license codes ({PREFIX}....)")
    if what[0] != "-" and not Path(what[0]).exists():
        raise click.UsageError(f"{what[0][:60]!r} is no file, and no license code ({PREFIX}....)")
    return what[0]


def _codes_of(part: str) -> list[str]:
    """The codes that an argument is, or that are in the file that it names."""
    return [part] if f"{PREFIX}." in part else split_codes(read_license(part))


def _read_codes(texts: Sequence[str]) -> list[LicenseCode]:
    """The codes of these texts, not verified; LicenseError names every faulty one."""
    codes, faults = [], []
    for number, text in enumerate(texts, start=1):
        try:
            codes.append(read_code(text, ()))
        except LicenseError as fault:
            faults.append(f"code {number}: {fault}" if len(texts) > 1 else str(fault))
    if faults:
        raise LicenseError("; ".join(_shortened(faults)))
    return codes


def _shortened(faults: list[str]) -> list[str]:
    rest = len(faults) - _SHOWN_FAULTS
    return [*faults[:_SHOWN_FAULTS], f"and {rest} more"] if rest > 0 else faults


def _show(
    codes: Sequence[LicenseCode],
    keys: Sequence[VendorPublicKey],
    as_json: bool,
    file: LicenseFile | None = None,
) -> None:
    """Print codes, and the file that they are from, as a table or as JSON."""
    verdicts = [("good" if c.trusted else "bad") if keys else "unchecked" for c in codes]
    if as_json:
        rows = [
            {
                **{name: getattr(code, name) for name in _SHOWN},
                "options": dict(code.options),
                "distribution": format_distribution(code.distribution)
                if code.distribution is not None
                else None,
                "borrowing_threshold": code.threshold,
                "signature": verdict,
            }
            for code, verdict in zip(codes, verdicts, strict=True)
        ]
        place = {"pool": file.pool, "sequence": file.sequence} if file else {}
        print_json({**place, "codes": rows})
        return
    if file:
        click.echo(f"license file number {file.sequence}, for pool {file.pool or 'any'}")
        click.echo()
    print_table(
        _COLUMNS,
        [
            (
                *(c.feature, c.count, c.version, c.starts, c.expires, _pool(c), c.id, c.vendor),
                ", ".join(f"{name}={printable(value)}" for name, value in c.options) or None,
                verdict,
            )
            for c, verdict in zip(codes, verdicts, strict=True)
        ],
    )


_SHOWN = (
    *("code", "id", "vendor", "feature", "version", "count"),
    *("starts", "expires", "pool", "pool_key"),
)


def _pool(code: LicenseCode) -> str | None:
    if code.pool_key is None:
        return code.pool
    return f"{code.pool or 'any'}, key {code.pool_key[:8]}..."
