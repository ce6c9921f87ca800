"""Who asks for an administrative change, and from where: handed along beside the call.

May import the core. The API sets `ASKER` for the calls that need the admin token; whatever
the server commits on behalf of such a call goes through `audited`, which makes a command of
the audit of it. What a server proposes of its own accord has no asker and is not wrapped.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from licraft.core.commands import Audited, Command


@dataclass(frozen=True, slots=True)
class Asker:
    """`who`: the token's role and fingerprint, and a name if one was given; `where`: an address."""

    who: str
    where: str


ASKER: ContextVar[Asker | None] = ContextVar("licraft_asker", default=None)


def audited(command: Command) -> Command:
    """The command as it is to be committed: with its asker, if somebody asked for it."""
    asker = ASKER.get()
    return command if asker is None else Audited(asker.who, asker.where, command)
