"""The configuration of one server: YAML -> frozen `Settings`, every problem at once.

May import `errors`, `config_file` and `yaml_text`. Reads the configuration file
and the environment that it is given, and nothing else: whether the files it
names exist is for those to find out who open them, since a license and the
vendor's key may come later. Source: the public contract, "Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from licraft.config_file import ConfigFile, examine, host_port
from licraft.errors import SettingsError
from licraft.yaml_text import YamlFault, read_yaml

MAX_CONFIG_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate and its key (PEM)."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class PeerTlsFiles:
    """What a server proves itself with to the others, and the authority they all trust (PEM)."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TokenFiles:
    """The files of the access tokens: for changing calls and for client calls."""

    admin: Path
    client: Path


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server of the pool: its name, its API's URL and its peers' `host:port`."""

    name: str
    api: str
    peer: str

    @property
    def peer_host(self) -> str:
        """The host of `peer`, without the brackets of an IPv6 address."""
        return host_port(self.peer)[0]

    @property
    def peer_port(self) -> int:
        """The port of `peer`."""
        return host_port(self.peer)[1]


@dataclass(frozen=True, slots=True)
class Settings:
    """One server's configuration, checked and ready for use; times are seconds.

    `servers` is in leader priority order, and counts until the pool is formed: then its own
    list does. A server that is to `join` a pool forms none. `tokens` is None for `tokens: none`,
    which only loopback listeners may say. `api_*` and `peer_*` are where this
    server listens; `servers` says where others find it.
    """

    pool: str
    server: str
    servers: tuple[ServerAddress, ...]
    data_dir: Path
    api_host: str
    api_port: int
    api_tls: TlsFiles | None
    peer_host: str
    peer_port: int
    peer_tls: PeerTlsFiles | None
    tokens: TokenFiles | None
    vendor_keys: tuple[Path, ...]
    license_file: Path | None
    lease_s: float
    ttl_s: float
    drift: float
    threshold: float
    leader_handback: bool
    log_format: Literal["json", "text"]
    log_level: Literal["debug", "info", "warning", "error"]
    join: bool = False
    expiry_grace_s: float = 0.0

    @property
    def address(self) -> ServerAddress:
        """This server's own entry of `servers`."""
        return next(entry for entry in self.servers if entry.name == self.server)


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings in the YAML file `path`, with the overrides in `environ`.

    Raises SettingsError with one line for each problem: `key.path: found X;
    expected Y`. Relative paths are relative to the file's directory.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as fault:
        raise SettingsError(
            str(path), [f"cannot be read: {fault.strerror}; `licraft init` writes a new pool"]
        ) from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise SettingsError(str(path), [f"is larger than {MAX_CONFIG_BYTES} bytes"])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise SettingsError(str(path), [f"is not UTF-8 text: byte {fault.start}"]) from None
    return parse_settings(text, source=str(path), folder=path.parent.absolute(), environ=environ)


def parse_settings(text: str, *, source: str, folder: Path, environ: Mapping[str, str]) -> Settings:
    """The settings that the YAML `text` says; `source` names it in messages."""
    try:
        document = read_yaml(text)
    except YamlFault as fault:
        raise SettingsError(source, [f"not readable YAML: {fault}"]) from None
    if not isinstance(document, dict):
        raise SettingsError(source, ["found no keys; expected keys such as `pool:`"])
    origin = _override(document, environ)
    file, problems = examine(document, origin)
    if problems:
        raise SettingsError(source, problems)
    return _settings(file, folder)


# --- From the environment ---

_SHARED_VARIABLES: dict[str, tuple[str, ...]] = {
    "LICRAFT_LEASE": ("lease",),
    "LICRAFT_TTL": ("ttl",),
    "LICRAFT_DRIFT": ("drift",),
    "LICRAFT_BORROWING_THRESHOLD": ("borrowing", "threshold"),
    "LICRAFT_LEADER_HANDBACK": ("leader_handback",),
    "LICRAFT_EXPIRY_GRACE": ("expiry_grace",),
    "LICRAFT_LOG_FORMAT": ("log", "format"),
    "LICRAFT_LOG_LEVEL": ("log", "level"),
}
_OWN_VARIABLES: dict[str, tuple[str, ...]] = {
    "LICRAFT_POOL": ("pool",),
    "LICRAFT_SERVER": ("server",),
    "LICRAFT_DATA_DIR": ("data_dir",),
    "LICRAFT_API_LISTEN": ("api", "listen"),
    "LICRAFT_API_TLS_CERT": ("api", "tls", "cert"),
    "LICRAFT_API_TLS_KEY": ("api", "tls", "key"),
    "LICRAFT_PEER_LISTEN": ("peer_listen",),
    "LICRAFT_PEER_TLS_CA": ("peer_tls", "ca"),
    "LICRAFT_PEER_TLS_CERT": ("peer_tls", "cert"),
    "LICRAFT_PEER_TLS_KEY": ("peer_tls", "key"),
    "LICRAFT_LICENSE_FILE": ("license_file",),
    "LICRAFT_TOKENS": ("tokens",),
    "LICRAFT_TOKENS_ADMIN": ("tokens", "admin"),
    "LICRAFT_TOKENS_CLIENT": ("tokens", "client"),
}
OWN_VARIABLES = frozenset(_OWN_VARIABLES)
"""Variables that make sense for one server only: a launcher of several drops them."""

# These are numbers and flags in YAML too; everything else stays the text that it is.
_NOT_TEXT = {"LICRAFT_DRIFT", "LICRAFT_BORROWING_THRESHOLD", "LICRAFT_LEADER_HANDBACK"}


def _override(document: dict[Any, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put the environment's scalars into `document`; returns which variable set which key.

    Other variables that begin with LICRAFT_ are left alone: some belong to the
    command line, and container platforms inject names of their own.
    """
    origin = {}
    for variable, keys in (_SHARED_VARIABLES | _OWN_VARIABLES).items():
        text = environ.get(variable, "")
        if not text:
            continue
        section = document
        for key in keys[:-1]:
            if not isinstance(section.get(key), dict):
                section[key] = {}
            section = section[key]
        section[keys[-1]] = _scalar(text) if variable in _NOT_TEXT else text
        origin[keys] = variable
    return origin


def _scalar(text: str) -> object:
    try:
        return read_yaml(text)
    except YamlFault:
        return text


# --- The result ---


def _settings(file: ConfigFile, folder: Path) -> Settings:
    own = next(entry for entry in file.servers if entry.name == file.server)
    peer_host, peer_port = file.peer_listen or host_port(own.peer)
    tls, peer_tls, tokens = file.api.tls, file.peer_tls, file.tokens
    return Settings(
        pool=file.pool,
        server=file.server,
        join=file.join,
        servers=tuple(ServerAddress(entry.name, entry.api, entry.peer) for entry in file.servers),
        data_dir=folder / file.data_dir,
        api_host=file.api.listen[0],
        api_port=file.api.listen[1],
        api_tls=TlsFiles(folder / tls.cert, folder / tls.key) if tls else None,
        peer_host=peer_host,
        peer_port=peer_port,
        peer_tls=PeerTlsFiles(folder / peer_tls.ca, folder / peer_tls.cert, folder / peer_tls.key)
        if peer_tls
        else None,
        tokens=TokenFiles(folder / tokens.admin, folder / tokens.client) if tokens else None,
        vendor_keys=tuple(folder / path for path in file.vendor_keys),
        license_file=folder / file.license_file if file.license_file else None,
        lease_s=file.lease,
        ttl_s=file.ttl,
        drift=file.drift,
        threshold=file.borrowing.threshold,
        leader_handback=file.leader_handback,
        expiry_grace_s=file.expiry_grace,
        log_format=file.log.format,
        log_level=file.log.level,
    )
