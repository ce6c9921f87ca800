"""Commands and states as versioned bytes, in one canonical order.

May import the rest of the core. The first byte is the version (see `versions`), the rest
is compact JSON without field names, of the fields that the version has; maps keep the
order in which the log made them. Servers that applied the same log therefore have the
same bytes, and a digest compares them. Decoding checks every type; it raises CodecError
and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, cast

from licraft.core import versions
from licraft.core.commands import COMMANDS, Command, Entry
from licraft.core.state import PoolState

T = TypeVar("T")
_FAULTS = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
_KINDS: dict[str, type[Command]] = {kind.__name__: kind for kind in COMMANDS}


class CodecError(ValueError):
    """These bytes are not what this or an earlier version of licraft writes."""


class TooNew(CodecError):
    """These bytes are of a version that this licraft does not know."""


def encode_entry(entry: Entry, version: int) -> bytes:
    """An entry as bytes of a version; raises ValueError if a command is not in that version."""
    commands = [_command(command, version) for command in entry.commands]
    return _dump([entry.server, entry.incarnation, entry.serial, commands], version)


def decode_entry(data: bytes) -> Entry:
    """The entry that these bytes are; raises CodecError."""
    try:
        version, plain = _load(data)
        server, incarnation, serial, commands = plain
        return Entry(
            _read(str, server, version),
            _read(int, incarnation, version),
            _read(int, serial, version),
            tuple(_read_command(command, version) for command in _list(commands)),
        )
    except CodecError:
        raise
    except _FAULTS as fault:
        raise CodecError(f"not a command of this version: {fault!r}") from fault


def encode_state(state: PoolState) -> bytes:
    """A state as bytes of the version that its pool speaks; equal states have equal bytes."""
    return _dump(_plain(PoolState, state, state.version), state.version)


def decode_state(data: bytes) -> PoolState:
    """The state that these bytes are; raises CodecError."""
    try:
        version, plain = _load(data)
        state = _read(PoolState, plain, version)
        if state.version != version:
            raise CodecError(f"a state of version {state.version} written in version {version}")
        return state
    except CodecError:
        raise
    except _FAULTS as fault:
        raise CodecError(f"not a state of this version: {fault!r}") from fault


def digest(state: PoolState) -> str:
    """SHA-256 of the state's bytes, in hexadecimal: the same on every server at one index."""
    return hashlib.sha256(encode_state(state)).hexdigest()


def _command(command: Command, version: int) -> list[Any]:
    """A command is its name and its fields; so is one that another command wraps."""
    if versions.first_version(type(command)) > version:
        raise ValueError(f"{type(command).__name__} is not in version {version}")
    return [type(command).__name__, _plain(type(command), command, version)]


def _read_command(plain: Any, version: int) -> Command:
    kind, body = _list(plain)
    return _read(_KINDS[kind], body, version)


def _dump(value: Any, version: int) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return bytes([version]) + text.encode()


def _load(data: bytes) -> tuple[int, Any]:
    """The version and what follows it."""
    version = data[0] if data else 0
    if version == 0:
        raise CodecError("no version")
    if version > versions.KNOWN:
        raise TooNew(f"written in version {version}, this licraft knows 1 to {versions.KNOWN}")
    return version, json.loads(data[1:])


@cache
def _names(kind: Any, version: int) -> tuple[str, ...]:
    """The fields of a dataclass that a version has."""
    return tuple(f.name for f in fields(kind) if f.metadata.get("since", 1) <= version)


@cache
def _writer(kind: Any, version: int) -> Callable[[Any], Any] | None:
    """What makes lists, text and numbers of values of one type; None if they are such already.

    Made once for each type and version: a state has many thousand values, and is written
    while the server stands still.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind == Command:
        return lambda command: _command(command, version)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [_writer(a, version) for a in arguments if a is not types.NoneType]
        return None if inner is None else lambda value: None if value is None else inner(value)
    if origin is tuple and arguments[-1] is Ellipsis:
        each = _writer(arguments[0], version)
        return None if each is None else lambda value: [each(item) for item in value]
    if origin is tuple:
        if any(_writer(argument, version) for argument in arguments):
            raise TypeError(f"the codec does not write {kind}")
        return None
    if origin is dict:
        item = _writer(arguments[1], version)
        if item is None:
            return lambda value: list(value.items())
        return lambda value: [(name, item(part)) for name, part in value.items()]
    if is_dataclass(kind):
        return _fields_writer(cast(Any, kind), version)
    return date.isoformat if kind is date else None


def _fields_writer(kind: Any, version: int) -> Callable[[Any], Any]:
    """A dataclass is the list of its fields that the version has."""
    hints = typing.get_type_hints(kind)
    names = _names(kind, version)
    writers = [_writer(hints[name], version) for name in names]
    special = [(place, write) for place, write in enumerate(writers) if write is not None]
    # `attrgetter` is the quicker way, and gives a tuple only of two and more.
    several = attrgetter(*names) if len(names) > 1 else None

    def write_fields(value: Any) -> list[Any]:
        row = list(several(value)) if several else [getattr(value, name) for name in names]
        for place, write in special:
            row[place] = write(row[place])
        return row

    return write_fields


def _plain(kind: Any, value: Any, version: int) -> Any:
    """A value of type `kind` as lists, text and numbers."""
    write = _writer(kind, version)
    return value if write is None else write(value)


def _read(kind: type[T], plain: Any, version: int) -> T:
    """The value of type `kind` that `plain` stands for; raises on any other shape."""
    return cast(T, _reader(cast(Any, kind), version)(plain))


@cache
def _reader(kind: Any, version: int) -> Callable[[Any], Any]:
    """How values of one type are read; made once for each type and version."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is types.NoneType:
        return _exactly(types.NoneType)
    if kind == Command:
        return lambda plain: _read_command(plain, version)
    if origin in (types.UnionType, typing.Union):
        return _optional([_reader(a, version) for a in arguments if a is not types.NoneType])
    if origin is tuple:
        return _tuple(arguments, version)
    if origin is dict:
        return _dict(_reader(arguments[0], version), _reader(arguments[1], version))
    if is_dataclass(kind):
        return _fields(cast(type[Any], kind), version)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind
    if kind is date:
        return date.fromisoformat
    if kind is float:
        return _number
    if kind is str:
        return _text
    return _exactly(kind)


def _exactly(kind: type[Any]) -> Callable[[Any], Any]:
    def read(plain: Any) -> Any:
        if type(plain) is not kind:
            raise CodecError(f"{plain!r} is not {kind.__name__}")
        return plain

    return read


def _number(plain: Any) -> float:
    if type(plain) not in (int, float):
        raise CodecError(f"{plain!r} is not a number")
    number = float(plain)
    if not math.isfinite(number):
        raise CodecError(f"{plain!r} is not a finite number")
    return number


def _text(plain: Any) -> str:
    if type(plain) is not str:
        raise CodecError(f"{plain!r} is not text")
    if not plain.isascii():
        plain.encode()  # Half a surrogate pair cannot be written again.
    return plain


def _optional(readers: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    if len(readers) != 1:
        raise TypeError("the codec reads optional values, not other unions")
    read = readers[0]
    return lambda plain: None if plain is None else read(plain)


def _tuple(arguments: tuple[Any, ...], version: int) -> Callable[[Any], Any]:
    if arguments[-1] is Ellipsis:
        each = _reader(arguments[0], version)
        return lambda plain: tuple(each(item) for item in _list(plain))
    readers = [_reader(argument, version) for argument in arguments]
    return lambda plain: tuple(read(item) for read, item in zip(readers, _list(plain), strict=True))


def _dict(key: Callable[[Any], Any], value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda plain: {key(k): value(v) for k, v in (_list(pair) for pair in _list(plain))}


def _fields(kind: type[Any], version: int) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    readers = [(name, _reader(hints[name], version)) for name in _names(cast(Any, kind), version)]

    def read(plain: Any) -> Any:
        pairs = zip(readers, _list(plain), strict=True)
        return kind(**{name: reader(v) for (name, reader), v in pairs})

    return read


def _list(plain: Any) -> list[Any]:
    if type(plain) is not list:
        raise CodecError(f"{plain!r} is not a list")
    return plain
