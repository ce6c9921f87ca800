"""Bodies and parameters of requests: bytes -> typed values, or what is wrong and where.

May import msgspec, `core.outcomes` and `wire`. What is wrong is a `Fault`, whose text is for the
person who wrote the request and whose `field` names the place in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec

from licraft.core.outcomes import Code

T = TypeVar("T")

_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<where>.*)`)?$", re.DOTALL)
_NAMED = re.compile(
    r"^Object (?:contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL
)
_MAX_FIELD = 200


class Fault(Exception):
    """A request that cannot be understood: `detail` says why, `field` where if that is known."""

    def __init__(
        self, detail: str, field: str | None = None, code: Code = Code.INVALID_REQUEST
    ) -> None:
        self.detail = detail
        self.field = field
        self.code = code
        super().__init__(detail)


_NAME = re.compile(rb'"(\w+)"\s*:')


class BodyDecoder(Generic[T]):
    """Decodes JSON bodies of one type strictly: no unknown and no repeated names."""

    def __init__(self, kind: type[T]) -> None:
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode
        self._maps = tuple(b'"%b"' % name.encode() for name in _maps(kind))

    def decode(self, body: bytes) -> T:
        """The value of `body`; raises Fault."""
        try:
            value = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise fault_of(error) from None
        if body.count(b":") > 1 and self._may_repeat(body):
            _refuse_repeated_names(body)
        return value

    def _may_repeat(self, body: bytes) -> bool:
        """Whether a name can occur twice in one object: false is certain, true is a suspicion.

        msgspec lets the last of two equal names win and cannot tell us. Except in
        maps the names are known words at this point, so each is in the body
        literally, or with an escape.
        """
        if b"\\" in body or any(name in body for name in self._maps):
            return True
        names = _NAME.findall(body)
        return len(set(names)) < len(names)


def _maps(kind: Any) -> list[str]:
    """The names in a body of this type that have maps for values."""
    maps: set[str] = set()
    todo = [msgspec.inspect.type_info(kind)]
    while todo:
        info = todo.pop()
        if isinstance(info, msgspec.inspect.UnionType):
            todo += info.types
        elif isinstance(info, msgspec.inspect.StructType):
            maps |= {
                field.encode_name
                for field in info.fields
                if isinstance(field.type, msgspec.inspect.DictType)
            }
            todo += [field.type for field in info.fields]
    return sorted(maps)


def _refuse_repeated_names(body: bytes) -> None:
    def pairs(members: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise Fault(f"the name `{name[:_MAX_FIELD]}` occurs twice", name[:_MAX_FIELD])
            seen.add(name)

    json.loads(body, object_pairs_hook=pairs)


def fault_of(error: Exception) -> Fault:
    """What msgspec says, with the place as a field's name: "$.client.pid" -> "client.pid"."""
    if isinstance(error, RecursionError):
        return Fault("the body is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        if str(error) == "Input data was truncated":
            return Fault("the body is empty or ends too early: a JSON object is expected")
        return Fault(f"the body is not JSON in UTF-8: {error}")
    match = _WHERE.match(str(error))
    what, where = (match["what"], match["where"] or "") if match else (str(error), "")
    place = where.removeprefix("key in ").removeprefix("$").removeprefix(".")
    named = _NAMED.match(what)
    if named:
        place = f"{place}.{named['name']}" if place else named["name"]
    where_text = f" (at `{place[:_MAX_FIELD]}`)" if place else ""
    return Fault(f"{what[: 2 * _MAX_FIELD]}{where_text}", place[:_MAX_FIELD] or None)


def decode_license(body: bytes) -> str:
    """A body that is a license file's text, not empty; raises Fault, an `invalid_license`.

    What the text says is the license server's to judge.
    """
    if not body:
        raise Fault("the license file is empty", code=Code.INVALID_LICENSE)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        detail = f"line {line}: the license file is not UTF-8 text: byte {body[error.start]:#04x}"
        raise Fault(detail, code=Code.INVALID_LICENSE) from None


def parse_query(query: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """The parameters of a query string; raises Fault for unknown and for repeated ones."""
    if not query:
        return {}
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError as error:  # includes UnicodeDecodeError
        raise Fault(f"the query string cannot be read: {error}") from None
    for name, value in pairs:
        place = name[:_MAX_FIELD]
        if name not in known:
            expected = ", ".join(known) or "none"
            raise Fault(f"unknown query parameter `{place}`; known here: {expected}", place)
        if name in found:
            raise Fault(f"the query parameter `{place}` occurs twice", place)
        found[name] = value
    return found


def check_parameter(name: str, value: str, kind: Any) -> None:
    """Refuse a path or query parameter that its type does not allow; raises Fault."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Fault(f"{fault_of(error).detail} (parameter `{name}`)", name) from None
