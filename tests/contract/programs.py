"""A pickle that does something when it is loaded: it sets a flag, and no more."""

from __future__ import annotations

import pickle

_executed: list[str] = []


def execute() -> str:
    """What the pickle calls."""
    _executed.append("executed")
    return "executed"


class _Program:
    def __reduce__(self) -> tuple[object, tuple[()]]:
        return execute, ()


def program() -> bytes:
    """The pickle."""
    return pickle.dumps(_Program(), 2)


def was_executed() -> bool:
    """Whether it was loaded since the last time that this was asked."""
    executed = bool(_executed)
    _executed.clear()
    return executed
