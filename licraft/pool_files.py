"""The files of pools: what `licraft init`, `licraft demo` and `licraft server add` write.

May import `certificates`, `config_file`, `settings`, `yaml_text` and `errors`. Decides first (a
`PoolPlan`, then the content of each file), writes last, and never over a file
that exists. Private keys and tokens get mode 0600 when they are created.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from licraft.certificates import Certificate, issue, make_authority
from licraft.config_file import NAME, host_port, is_loopback, joined
from licraft.errors import SettingsError
from licraft.settings import parse_settings
from licraft.yaml_text import read_yaml

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota")
PEER_PORT_OFFSET = 100
TOKEN_BYTES = 32
RESERVED = ("ca", "vendor")
"""Server names whose certificate files would be taken for another's."""


@dataclass(frozen=True, slots=True)
class PlannedServer:
    """Where one server will run; `host` is what the other servers and clients call it."""

    name: str
    host: str
    api_port: int
    peer_port: int

    @property
    def api_url(self) -> str:
        """The URL of its API."""
        return f"http://{joined(self.host, self.api_port)}"

    @property
    def peer(self) -> str:
        """Where the other servers reach it, as `host:port`."""
        return joined(self.host, self.peer_port)

    def listener(self, port: int) -> str:
        """Where it listens: every interface, or loopback if it is reached by loopback.

        Binding the host's own name would often bind loopback by mistake: many
        systems resolve it to 127.0.1.1 in /etc/hosts.
        """
        if is_loopback(self.host):
            return joined(self.host, port)
        return joined("::" if ":" in self.host else "0.0.0.0", port)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool to be written; `servers` are in leader priority order."""

    pool: str
    servers: tuple[PlannedServer, ...]
    tokens: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """A server of a pool that exists: its API's URL, the `host:port` of its peers."""

    name: str
    api: str
    peer: str


@dataclass(frozen=True, slots=True)
class PoolFile:
    """One file to write: its name in the pool's directory, its text and its mode."""

    name: str
    text: str
    mode: int = 0o644


def local_servers(count: int, port: int) -> tuple[PlannedServer, ...]:
    """`count` servers on this machine: API ports from `port`, peer ports from `port` + 100."""
    return tuple(
        PlannedServer(name, "127.0.0.1", port + number, port + PEER_PORT_OFFSET + number)
        for number, name in enumerate(NAMES[:count])
    )


def parse_server(text: str) -> PlannedServer:
    """The server that `NAME=HOST:APIPORT:PEERPORT` says; ValueError says what is wrong."""
    name, equals, address = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=HOST:APIPORT:PEERPORT")
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: letters, digits and . _ -, at most 64")
    if name in RESERVED:
        raise ValueError(f"{name!r} cannot be a server's name: its files would be taken for others")
    api, _, peer_port = address.rpartition(":")
    try:
        host, api_number = host_port(api)
        _, peer_number = host_port(f"x:{peer_port}")
    except ValueError:
        raise ValueError(f"{address!r} is not HOST:APIPORT:PEERPORT") from None
    if api_number == peer_number:
        raise ValueError(f"{name} has port {api_number} twice; API and peers need one each")
    return PlannedServer(name, host, api_number, peer_number)


def write_pool(directory: Path, plan: PoolPlan, now: datetime) -> list[PoolFile]:
    """Write the pool's files into `directory`, which must be empty or not exist.

    Raises SettingsError, with nothing written, if it holds anything or if the
    plan contradicts itself (a name or an address twice). The configurations come
    last: where one exists, all it names exists.
    """
    for server in plan.servers:
        check = config_text(plan, server)
        parse_settings(check, source=f"{server.name}.yaml", folder=directory, environ={})
    files = list(pool_files(plan, now))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = sorted(entry.name for entry in directory.iterdir())
        if present:
            raise SettingsError(
                str(directory),
                [
                    f"found {present[0]}{' and more' if present[1:] else ''}; expected an empty"
                    " directory, since nothing is overwritten"
                ],
            )
        for server in plan.servers:
            (directory / _data_dir(server)).mkdir(parents=True, mode=0o700)
        for file in files:
            write_new(directory / file.name, file.text, file.mode)
    except OSError as fault:
        raise SettingsError(str(directory), [f"cannot be written: {fault.strerror}"]) from fault
    return files


def pool_files(plan: PoolPlan, now: datetime) -> Iterator[PoolFile]:
    """Each file of the pool; keys and tokens are new every time."""
    authority = make_authority(plan.pool, now)
    yield PoolFile("ca.crt", authority.cert)
    yield PoolFile("ca.key", authority.key, 0o600)
    for server in plan.servers:
        certificate = issue(authority, server.name, server.host, now)
        yield PoolFile(f"{server.name}.crt", certificate.cert)
        yield PoolFile(f"{server.name}.key", certificate.key, 0o600)
    if plan.tokens:
        for role in ("admin", "client"):
            yield PoolFile(f"{role}.token", secrets.token_urlsafe(TOKEN_BYTES) + "\n", 0o600)
    for server in plan.servers:
        yield PoolFile(f"{server.name}.yaml", config_text(plan, server))


def write_joining(
    directory: Path, pool: str, present: tuple[Address, ...], new: PlannedServer, now: datetime
) -> list[PoolFile]:
    """Write what `new` needs to join `pool` into the pool's directory; returns what was written.

    The certificate is signed by the pool's authority, whose files `licraft init` left
    there. What an earlier attempt has written stays as it is. Raises SettingsError if the
    authority is not there, or if `new` has the name or an address of another server.
    """
    tokens = (directory / "admin.token").exists()
    entries = (*present, Address(new.name, new.api_url, new.peer))
    config = _config(pool, new, entries, tokens=tokens, join=True)
    parse_settings(config, source=f"{new.name}.yaml", folder=directory, environ={})
    names = [f"{new.name}.{kind}" for kind in ("crt", "key", "yaml")]
    written = [name for name in names if (directory / name).exists()]
    if written == names and (directory / names[2]).read_text(encoding="utf-8") == config:
        return []
    if written:
        raise SettingsError(
            str(directory),
            [f"found {written[0]}, and nothing is overwritten: move {new.name}'s files away"],
        )
    try:
        authority = Certificate(
            (directory / "ca.crt").read_text(encoding="ascii"),
            (directory / "ca.key").read_text(encoding="ascii"),
        )
        certificate = issue(authority, new.name, new.host, now)
        files = [
            PoolFile(names[0], certificate.cert),
            PoolFile(names[1], certificate.key, 0o600),
            PoolFile(names[2], config),
        ]
        (directory / _data_dir(new)).mkdir(parents=True, mode=0o700, exist_ok=True)
        for file in files:
            write_new(directory / file.name, file.text, file.mode)
    except (OSError, ValueError) as fault:
        reason = f"{fault.filename}: {fault.strerror}" if isinstance(fault, OSError) else str(fault)
        raise SettingsError(
            str(directory),
            [f"{reason}; expected what `licraft init` wrote, with ca.crt and ca.key"],
        ) from fault
    return files


def write_new(path: Path, text: str, mode: int = 0o644) -> None:
    """Create `path` with `mode` from its first moment; OSError if it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def config_text(plan: PoolPlan, server: PlannedServer) -> str:
    """The annotated configuration of one server of the pool."""
    entries = tuple(Address(entry.name, entry.api_url, entry.peer) for entry in plan.servers)
    return _config(plan.pool, server, entries, tokens=plan.tokens, join=False)


def _config(
    pool: str, server: PlannedServer, entries: tuple[Address, ...], *, tokens: bool, join: bool
) -> str:
    width = max(len(_quoted(entry.name)) for entry in entries) + 1
    servers = "\n".join(
        f"  - {{name: {_quoted(entry.name) + ',':<{width}} api: {_quoted(entry.api)},"
        f" peer: {_quoted(entry.peer)}}}"
        for entry in entries
    )
    return _CONFIG.format(
        pool=_quoted(pool),
        server=_quoted(server.name),
        join=_JOIN if join else "",
        name=server.name,
        data_dir=_data_dir(server),
        api_listen=_quoted(server.listener(server.api_port)),
        servers=servers,
        peer_listen=_quoted(server.listener(server.peer_port)),
        tokens=_TOKENS if tokens else _NO_TOKENS,
    )


def _data_dir(server: PlannedServer) -> str:
    return f"data/{server.name}"


def _quoted(text: str) -> str:
    """`text` as YAML: in quotes where it would be a number, a flag or a list (`2026`, `no`)."""
    plain = "[" not in text and read_yaml(text) == text
    return text if plain else f'"{text}"'


_JOIN = """\

# This server joins a pool that exists; without it, it would help to form a new one.
join: true
"""

_TOKENS = """\
# Access tokens: whoever holds `admin` may change the pool, `client` may use licenses.
tokens: {admin: admin.token, client: client.token}
"""

_NO_TOKENS = """\
# No access tokens: allowed only because the API listens on loopback.
tokens: none
"""

_CONFIG = """\
# Configuration of the license server {server} of the pool {pool}.
# Paths are relative to this file. Durations: 500ms, 3s, 2m.

pool: {pool}
server: {server}
{join}
# What this server must remember: the replicated log and its record of what it
# granted. Never share it between servers, never restore it from a backup.
data_dir: {data_dir}

# Where clients and administrators connect. For a pool beyond one trusted network
# add `tls: {{cert: FILE, key: FILE}}` here and write https:// in `servers` below.
api: {{listen: {api_listen}}}

# All servers of the pool, the same list in every configuration. The order is the
# leader priority: the first server that is up and current leads. Once the pool is formed
# its own list counts, which `licraft server add` and `remove` change.
servers:
{servers}

# Where the other servers connect, and how they prove who they are.
peer_listen: {peer_listen}
peer_tls: {{ca: ca.crt, cert: {name}.crt, key: {name}.key}}

# The redundant license file, this server's own copy. It need not exist yet:
# `licraft license install FILE` gives one to the whole pool.
license_file: {name}.lic

# Whose license codes are accepted: public keys of `licraft vendor keygen`.
vendor_keys: [vendor.pub]

{tokens}
# A silent server is down after `lease`. Clients keep what they hold for `ttl`
# without any answer: longer rides out more, shorter frees a lost client's seats
# sooner. At least 4 * lease. Clock rates may differ by `drift`.
lease: 3s
ttl: 60s
drift: 0.01

# A server fetches more seats when more than this part of its own is in use.
borrowing: {{threshold: 0.8}}

# Hand leadership back to a server of higher priority once it is up again.
leader_handback: true

log: {{format: json, level: info}}
"""
