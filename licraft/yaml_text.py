"""YAML from people, read strictly: plain data only, every fault with its line.

May import PyYAML. Configuration and license files share this reader. It builds
plain data from the library's events, in one pass and with bounds, and refuses
what plain data never needs and what can hurt: keys written twice (the first
would silently lose), anchors and aliases (a few lines can expand to gigabytes),
tags, directives, several documents, nesting deeper than `MAX_DEPTH` and more than
`MAX_VALUES` values. Must not guess: a date, and a number that not every reader
of YAML takes for the same (`010`, `1:30`, `0x10`, `1_000`), stay the text that
was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

MAX_DEPTH = 12
MAX_VALUES = 100_000
MAX_NUMBER_CHARS = 4_000

# libyaml where PyYAML was built with it: a license file of 5,000 codes takes a
# fraction of a second instead of many.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[object, ...]

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NOT_YAML = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # YAML 1.1, 5.1
)
# No use to anybody here, and libyaml compares each %TAG with all before it: three
# megabytes of them would take minutes.
_DIRECTIVE = re.compile("(?:^\ufeff?|[\n\r\x85\u2028\u2029])%")
_WHOLE_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FRACTION = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class YamlFault(ValueError):
    """The text is not the YAML that is expected; `line` counts from 1, None if unknown."""

    def __init__(self, detail: str, line: int | None) -> None:
        self.line = line
        super().__init__(f"line {line}: {detail}" if line else detail)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None), and where it is written."""

    value: object
    lines: Mapping[Path, int]

    def line(self, *path: object) -> int:
        """The line, from 1, of the key or list item at `path`, or of the next thing around it."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_yaml(text: str) -> object:
    """The plain data that `text` says; raises YamlFault as `read_document` does."""
    return read_document(text).value


def read_document(text: str) -> Document:
    """The plain data that `text` says, with the line of every key and list item.

    Raises YamlFault with a message for people. The caller bounds the length.
    """
    _check_characters(text)
    try:
        return _Builder(text).document()
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        raise YamlFault(_said(fault), mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, UnicodeError) as fault:
        raise YamlFault(f"not readable text: {str(fault).splitlines()[0]}", None) from None


def line_of(text: str, place: int) -> int:
    """The line, from 1, in which the character at `place` is, as YAML counts lines."""
    return 1 + sum(1 for _ in _LINE_BREAK.finditer(text, 0, place))


def _check_characters(text: str) -> None:
    found = _NOT_YAML.search(text)
    if found:
        hint = "; is this UTF-16 text, not UTF-8?" if found[0] == "\0" else ""
        raise YamlFault(
            f"not readable text: the character U+{ord(found[0]):04X} is not allowed{hint}",
            line_of(text, found.start()),
        )
    found = _DIRECTIVE.search(text)
    if found:
        raise YamlFault("directives (%NAME) are not allowed here", line_of(text, found.end()))


def _said(fault: yaml.MarkedYAMLError) -> str:
    """What the library says, with the place where that began which it could not finish."""
    begun = fault.context_mark
    if not fault.problem or not fault.context:
        return fault.problem or fault.context or "not YAML"
    where = f" that begins in line {begun.line + 1}" if begun else ""
    return f"{fault.problem} ({fault.context}{where})"


class _Builder:
    """Plain data from the events of one text; recursion goes no deeper than `MAX_DEPTH`."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._resolve: Callable[..., str] = _Loader("").resolve
        self._lines: dict[Path, int] = {}
        self._values = 0

    def document(self) -> Document:
        """The one document of the text; no document at all is None."""
        next(self._events)  # the stream begins
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Document(None, {})
        event = next(self._events)
        self._lines[()] = event.start_mark.line + 1
        value = self._value(event, ())
        next(self._events)  # the document ends
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            _refuse(event, "a second document begins here; one is expected")
        return Document(value, self._lines)

    def _value(self, event: Any, path: Path) -> object:
        if isinstance(event, yaml.AliasEvent):
            _refuse(event, "aliases (*name) are not allowed here")
        if event.anchor is not None:
            _refuse(event, "anchors (&name) are not allowed here")
        if event.tag is not None:
            _refuse(event, "tags (!name) are not allowed here")
        self._values += 1
        if self._values > MAX_VALUES:
            _refuse(event, f"more than {MAX_VALUES} values")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return self._mapping(path)

    def _list(self, path: Path) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, len(items))
            self._lines[here] = event.start_mark.line + 1
            items.append(self._value(event, here))
        return items

    def _mapping(self, path: Path) -> dict[object, object]:
        pairs: dict[object, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                _refuse(event, "a key is not plain text")
            key = self._value(event, path)
            if key in pairs:
                _refuse(event, f"the key `{_short(event.value)}` is written twice")
            here = (*path, key)
            self._lines[here] = event.start_mark.line + 1
            pairs[key] = self._value(next(self._events), here)
        return pairs

    def _scalar(self, event: Any) -> object:
        """The value of a scalar; what is in quotes, or no number, flag or null, is text."""
        text: str = event.value
        begin = text[: MAX_NUMBER_CHARS + 1]  # What is a number for so long is meant as one.
        kind = self._resolve(yaml.ScalarNode, begin, event.implicit).rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind not in ("int", "float"):
            return text
        if len(begin) > MAX_NUMBER_CHARS:
            _refuse(event, f"a number of {len(text)} digits; at most {MAX_NUMBER_CHARS}")
        if _WHOLE_NUMBER.fullmatch(text):
            return int(text)
        if _FRACTION.fullmatch(text):
            return float(text)
        if text.lower().endswith((".inf", ".nan")):
            return float(text.lower().replace(".", ""))
        return text


def _refuse(event: Any, detail: str) -> NoReturn:
    raise YamlFault(detail, event.start_mark.line + 1 if event.start_mark else None)


def _short(text: str) -> str:
    return text if text.isprintable() and len(text) <= 60 else repr(text[:60])
