"""The configuration file's shape, and in words what is wrong with one.

May import pydantic. A pure function of the parsed YAML: every problem is one
line, `key.path: found X; expected Y`. Must not read files or the environment.
Source: the public contract, "Configuration".
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

MAX_SERVERS = 9
LEASES_PER_TTL = 4
"""A holder outlives the wait until its silent server is down (pool protocol, section 4)."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def examine(
    document: dict[Any, Any], origin: Mapping[tuple[str, ...], str]
) -> tuple[ConfigFile, list[str]]:
    """What `document` says and its problems; to be used only if there are none.

    `origin` names the environment variable that set a key, for the messages.
    """
    file, faults = _validate(document)
    problems = [_problem(fault, origin) for fault in faults]
    # A contradiction is only one if all its sides are as the user wrote them.
    faulty = {str(fault["loc"][0]) for fault in faults}
    problems += [text for keys, text in _contradictions(file) if not keys & faulty]
    return file, problems


def host_port(text: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` in two parts; ValueError says what is expected."""
    expected = ValueError("host:port, such as 127.0.0.1:7700")
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise expected
    if bracketed != (":" in host) or not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", host):
        raise expected
    return host, int(port)


# --- The shape of the file. A validator's ValueError is the text after "expected". ---


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(
            "a name of at most 64 letters, digits and . _ -, a letter or digit first"
            " (in quotes if YAML takes it for a number)"
        )
    return value


def _duration(low_s: float, high_s: float) -> BeforeValidator:
    def seconds(value: object) -> float:
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        found = float(match[1]) * _UNIT_S[match[2]] if match else _float(value)
        if not low_s <= found <= high_s:
            raise ValueError(
                f"a duration such as 3s, 500ms or 2m, from {low_s:g} to {high_s:g} seconds"
            )
        return found

    return BeforeValidator(seconds)


def _drift(value: object) -> float:
    if not 0 <= (found := _float(value)) <= 0.2:
        raise ValueError("a number from 0 to 0.2")
    return found


def _threshold(value: object) -> float:
    if not 0 < (found := _float(value)) <= 1:
        raise ValueError("a number above 0, at most 1")
    return found


def _float(value: object) -> float:
    """A YAML number as a float; NaN, which is in no range, for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _tokens(value: object) -> object:
    if value == "none":
        return None
    if not isinstance(value, dict):
        raise ValueError(_EXPECTED_KEY["tokens"])
    return value


def _listener(value: object) -> tuple[str, int]:
    if not isinstance(value, str):
        raise ValueError("host:port, such as 127.0.0.1:7700")
    return host_port(value)


def _peer(value: object) -> str:
    host, port = _listener(value)
    if _is_wildcard(host):
        raise ValueError("a host:port that the other servers can reach, such as 10.0.0.5:7800")
    return joined(host, port)


def _url(value: object) -> str:
    expected = ValueError("a URL of scheme, host and port, such as http://127.0.0.1:7700")
    if not isinstance(value, str) or not value.isascii() or any(c.isspace() for c in value):
        raise expected
    try:
        url = urlsplit(value)
        host, port = url.hostname, url.port
    except ValueError:
        raise expected from None
    extras = url.path not in ("", "/") or url.query or url.fragment or "@" in url.netloc
    if url.scheme not in ("http", "https") or not host or port == 0 or extras:
        raise expected
    if _is_wildcard(host):
        raise ValueError("a URL that clients can reach, such as http://10.0.0.5:7700")
    # One spelling for each address, so that duplicates are seen.
    return f"{url.scheme}://{joined(host, port or (443 if url.scheme == 'https' else 80))}"


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path (relative to this file)")
    return Path(value)


def joined(host: str, port: int) -> str:
    """The reverse of `host_port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


Name = Annotated[str, BeforeValidator(_name)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Listener = Annotated[tuple[str, int], BeforeValidator(_listener)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Tls(_Section):
    cert: FilePath
    key: FilePath


class _PeerTls(_Tls):
    ca: FilePath


class _Tokens(_Section):
    admin: FilePath
    client: FilePath


class _Api(_Section):
    listen: Listener
    tls: _Tls | None = None


class ServerEntry(_Section):
    name: Name
    api: Annotated[str, BeforeValidator(_url)]
    peer: Annotated[str, BeforeValidator(_peer)]


class _Borrowing(_Section):
    threshold: Annotated[float, BeforeValidator(_threshold)] = 0.8


class _Log(_Section):
    format: Literal["json", "text"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class ConfigFile(_Section):
    """The file's keys, one for one; `_EXPECTED_KEY` has the text for those that are missing."""

    pool: Name
    server: Name
    join: bool = False
    data_dir: FilePath
    api: _Api
    servers: Annotated[list[ServerEntry], Field(min_length=1, max_length=MAX_SERVERS)]
    peer_listen: Listener | None = None
    peer_tls: _PeerTls | None = None
    license_file: FilePath | None = None
    vendor_keys: Annotated[list[FilePath], Field(max_length=64)] = []
    tokens: Annotated[_Tokens | None, BeforeValidator(_tokens)]
    lease: Annotated[float, _duration(0.05, 600)] = 3.0
    ttl: Annotated[float, _duration(0.2, 7 * 86400)] = 60.0
    drift: Annotated[float, BeforeValidator(_drift)] = 0.01
    borrowing: _Borrowing = _Borrowing()
    leader_handback: bool = True
    expiry_grace: Annotated[float, _duration(0, 90 * 86400)] = 0.0
    log: _Log = _Log()


_SECTIONS: dict[str, type[_Section]] = {
    "api": _Api,
    "tls": _Tls,
    "peer_tls": _PeerTls,
    "servers": ServerEntry,
    "tokens": _Tokens,
    "borrowing": _Borrowing,
    "log": _Log,
}

_EXPECTED_KEY = {
    "pool": "the pool's name",
    "server": "this server's name, one of `servers`",
    "data_dir": "a directory for this server alone",
    "api": "{listen: HOST:PORT} (in `servers`: a URL)",
    "listen": "HOST:PORT",
    "servers": "the list of the pool's servers, in leader priority order",
    "tokens": "{admin: FILE, client: FILE}, or `tokens: none` for a pool on loopback",
    "admin": "the file of the administrators' token",
    "client": "the file of the clients' token",
    "name": "the server's name",
    "peer": "HOST:PORT that the other servers can reach",
    "ca": "a PEM file",
    "cert": "a PEM file",
    "key": "a PEM file",
}


# --- What is wrong, in words ---


# What stands for a required key that is missing or faulty, so that the others can
# still be checked against each other.
_STAND_IN: dict[Any, Any] = {
    "pool": "x",
    "server": "x",
    "data_dir": "x",
    "api": {"listen": "127.0.0.1:1"},
    "servers": [{"name": "x", "api": "http://127.0.0.1:1", "peer": "127.0.0.1:2"}],
    "tokens": "none",
}


def _validate(document: dict[Any, Any]) -> tuple[ConfigFile, list[ErrorDetails]]:
    """The file without its faulty keys, and their faults."""
    try:
        return ConfigFile.model_validate(document), []
    except ValidationError as fault:
        faults = fault.errors(include_url=False)
    faulty = {details["loc"][0] for details in faults}
    sound = {key: value for key, value in document.items() if key not in faulty}
    return ConfigFile.model_validate(_STAND_IN | sound), faults


def _problem(fault: ErrorDetails, origin: Mapping[tuple[str, ...], str]) -> str:
    """One line: `key.path: found X; expected Y`."""
    loc = fault["loc"]
    path = ".".join(str(part) for part in loc)
    variable = origin.get(tuple(str(part) for part in loc))
    where = f"{path} ({variable})" if variable else path
    return f"{where}: found {_found(fault)}; expected {_expected(fault)}"


def _found(fault: ErrorDetails) -> str:
    if fault["type"] == "missing":
        return "nothing"
    if fault["type"] == "extra_forbidden":
        return "an unknown key"
    if fault["type"] in ("too_short", "too_long"):
        return f"{len(fault['input'])} entries"
    if fault["loc"][0] == "tokens" and isinstance(fault["input"], str):
        return "text"  # it may be the token itself, which must not reach a log
    return _shown(fault["input"])


def _expected(fault: ErrorDetails) -> str:
    context, loc = fault.get("ctx", {}), fault["loc"]
    match fault["type"]:
        case "missing":
            return _EXPECTED_KEY[str(loc[-1])]
        case "extra_forbidden":
            return _expected_instead(loc)
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"one of {context['expected']}".replace(" or ", ", ")
        case "invalid_key":
            return "keys of text"
        case "model_type":
            return f"keys below it: {', '.join(_known_keys(loc))}"
        case "too_short" | "too_long":
            return f"1 to {context.get('max_length', MAX_SERVERS)}"
        case "bool_type":
            return "true or false"
        case "list_type":
            return "a list"
        case _:
            return fault["msg"].removeprefix("Input should be ")


def _expected_instead(loc: tuple[int | str, ...]) -> str:
    known = _known_keys(loc[:-1])
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return f"`{near[0]}`?" if near else f"only {', '.join(known)}"


def _known_keys(section: tuple[int | str, ...]) -> list[str]:
    names = [part for part in section if isinstance(part, str)]
    return list((_SECTIONS[names[-1]] if names else ConfigFile).model_fields)


def _contradictions(file: ConfigFile) -> Iterator[tuple[set[str], str]]:
    """Keys that are right by themselves and wrong together: (their names, the problem)."""
    names = [entry.name for entry in file.servers]
    own = next((entry for entry in file.servers if entry.name == file.server), None)
    if own is None:
        yield (
            {"server", "servers"},
            f"server: found {file.server!r}; expected one of `servers`: {', '.join(names)}",
        )
    for text in _repetitions(file.servers):
        yield {"servers"}, text
    if file.ttl < LEASES_PER_TTL * file.lease:
        yield (
            {"ttl", "lease"},
            f"ttl: found {file.ttl:g} seconds; expected at least {LEASES_PER_TTL} * lease ="
            f" {LEASES_PER_TTL * file.lease:g} seconds",
        )
    if file.tokens is None and not is_loopback(file.api.listen[0]):
        yield (
            {"tokens", "api"},
            "tokens: found none; expected {admin: FILE, client: FILE}, since api.listen is"
            f" {joined(*file.api.listen)}, which is not loopback",
        )
    if file.tokens is not None and file.tokens.admin == file.tokens.client:
        yield (
            {"tokens"},
            "tokens.client: found the administrators' file; expected another one, since with it"
            " every client is an administrator",
        )
    if file.api.tls and own and own.api.startswith("http:"):
        yield (
            {"api", "servers", "server"},
            f"servers.{names.index(own.name)}.api: found {own.api}; expected https://, since"
            " api.tls is set",
        )
    if own:
        yield from _peer_contradictions(file, own)


def _peer_contradictions(file: ConfigFile, own: ServerEntry) -> Iterator[tuple[set[str], str]]:
    keys = {"peer_listen", "peer_tls", "api", "servers", "server"}
    host, port = file.peer_listen or host_port(own.peer)
    if file.peer_tls is None and not is_loopback(host):
        yield (
            keys,
            "peer_tls: found nothing; expected {ca: FILE, cert: FILE, key: FILE}, since peers are"
            f" accepted on {joined(host, port)}, which is not loopback",
        )
    api_host, api_port = file.api.listen
    if port == api_port and (host == api_host or _is_wildcard(host) or _is_wildcard(api_host)):
        key = "peer_listen" if file.peer_listen else "api.listen"
        yield keys, f"{key}: found port {port}; expected different ports for API and peers"


def _repetitions(servers: list[ServerEntry]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for number, entry in enumerate(servers):
        peer_and_api = {"peer": entry.peer, "api": entry.api.partition("//")[2]}
        for key, value in {"name": f"name {entry.name}", **peer_and_api}.items():
            path = f"servers.{number}.{key}"
            first = seen.setdefault(value, path)
            if first != path:
                yield f"{path}: found {getattr(entry, key)!r}; expected another than {first}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
