"""YAML from people, read strictly: plain data only, every fault with its line.

May import PyYAML. Configuration and license files share this reader. It refuses
what plain data never needs and what can hurt: keys written twice (the first
would silently lose), anchors and aliases (a few lines can expand to gigabytes),
tags, several documents, and nesting deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 12

# libyaml where PyYAML was built with it: a license file of 5,000 codes takes a
# fraction of a second instead of many.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlFault(ValueError):
    """The text is not the YAML that is expected; `line` counts from 1, None if unknown."""

    def __init__(self, detail: str, line: int | None) -> None:
        self.line = line
        super().__init__(f"line {line}: {detail}" if line else detail)


class _StrictLoader(_Loader):  # type: ignore[misc]  # the base is chosen at run time
    """A safe loader that refuses a key written twice, and keeps dates as text."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[object, object]:
    pairs: dict[object, object] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlFault("a key is not plain text", key_node.start_mark.line + 1)
        key = loader.construct_object(key_node)
        if key in pairs:
            raise YamlFault(f"the key `{key}` is written twice", key_node.start_mark.line + 1)
        pairs[key] = loader.construct_object(value_node, deep=True)
    return pairs


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
# A date stays the text that was written: whoever expects one reads it, and
# messages can show it as it stands in the file.
_StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_yaml_str)
_StrictLoader.add_constructor("tag:yaml.org,2002:merge", _Loader.construct_yaml_str)


def read_yaml(text: str) -> object:
    """The plain data (dict, list, str, int, float, bool, None) that `text` says.

    Raises YamlFault with a message for people. The caller bounds the length.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        detail = fault.problem or fault.context or "not YAML"
        raise YamlFault(detail, mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, UnicodeError) as fault:
        raise YamlFault(f"not readable text: {str(fault).splitlines()[0]}", None) from None
    except YamlFault:
        raise
    except (ValueError, OverflowError) as fault:
        # A scalar that looks like a number and is none, or one of thousands of digits.
        raise YamlFault(str(fault).splitlines()[0], None) from None


def _check_events(text: str) -> None:
    """Refuse, before anything is built, what could grow or nest without bound."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise YamlFault("a second document begins here; one is expected", line)
        elif isinstance(event, yaml.AliasEvent):
            raise YamlFault("aliases (*name) are not allowed here", line)
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                raise YamlFault("anchors (&name) are not allowed here", line)
            if getattr(event, "tag", None) not in (None, "!"):
                raise YamlFault("tags (!name) are not allowed here", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlFault(f"nested deeper than {MAX_DEPTH} levels", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
