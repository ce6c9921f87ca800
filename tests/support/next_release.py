"""The next release of licraft, as far as a pool can tell: it knows one version more.

Run as a program it is the `licraft` command of that release. What version 2 adds is one
command, which every server notes in its log when it is applied, and each server of the
new release proposes all the time: as soon as the whole pool can read it, and not before.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from licraft.core import apply, codec, versions
from licraft.core.commands import Command
from licraft.core.outcomes import DONE, Event, Outcome
from licraft.core.state import PoolState
from licraft.server.license_server import LicenseServer

log = logging.getLogger("licraft.next_release")
NOTED = "noted by version 2"


@dataclass(frozen=True, slots=True)
class Note:
    """What version 2 adds."""

    SINCE: ClassVar[int] = 2

    text: str


def note(command: Note, state: PoolState, index: int, events: list[Event]) -> Outcome:
    """A command that nobody of the release before could apply."""
    log.info("%s: %s", NOTED, command.text)
    return DONE


def install() -> None:
    """Make the licraft of this process the next release."""
    versions.KNOWN = 2
    codec._KINDS["Note"] = cast(type[Command], Note)
    cast(Any, apply._apply).register(Note)(note)
    run = LicenseServer.run

    async def run_and_note(self: LicenseServer) -> None:
        proposing = asyncio.get_running_loop().create_task(_propose(self))
        try:
            await run(self)
        finally:
            proposing.cancel()

    LicenseServer.run = run_and_note  # type: ignore[method-assign]  # It is another release.


async def _propose(server: LicenseServer) -> None:
    while True:
        await asyncio.sleep(0.2)
        command: Any = Note(server.name)
        server.proposer.attempt(command)


def command_of(config: Path) -> list[str]:
    """How a server of the next release is started."""
    import sys

    return [sys.executable, str(Path(__file__).resolve()), "run", "--config", str(config)]


if __name__ == "__main__":
    from licraft.cli.main import main

    install()
    main()
