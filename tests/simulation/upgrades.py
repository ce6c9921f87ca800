"""Servers are upgraded one by one to the next release while everything else goes wrong.

May import the testing room and this folder. All servers of a simulation are one process, which
is of the next release; each says at its start what its own release would know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from support.next_release import Note, note

from licraft.core import apply, codec, versions
from licraft.server.standing import Standing

if TYPE_CHECKING:
    from simulation.faults import Misfortunes

NEXT = versions.KNOWN + 1
NOTE_S = 1.0

_come_up = Standing._come_up
_knows: dict[str, int] = {}


@contextmanager
def next_release() -> Iterator[None]:
    """What this process can read is the next release's; a server tells the pool its own."""
    _knows.clear()

    def come_up(self: Standing, now: float) -> None:
        with patch.object(versions, "KNOWN", _knows.get(self._config.server, 1)):
            _come_up(self, now)

    rule: Any = apply._apply
    rule.register(Note)(note)
    with (
        patch.object(versions, "KNOWN", NEXT),
        patch.dict(codec._KINDS, {"Note": Note}),
        patch.object(Standing, "_come_up", come_up),
    ):
        yield


class Upgrades:
    """The upgrades of one run; `knows` is what each server's release knows."""

    def __init__(self, run: Misfortunes) -> None:
        self._run = run
        self.knows = _knows

    def faults(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """By their names."""
        return {"upgrade": self._upgrade}

    async def note(self) -> None:
        """Have every upgraded server propose what only the next release knows; never returns."""
        while True:
            await asyncio.sleep(NOTE_S)
            for name in self._run.pool.running:
                if self.knows.get(name, 1) == NEXT:
                    self._run.pool.server(name).proposer.attempt(_note(name))

    async def _upgrade(self) -> None:
        """A server is stopped, in an orderly way or not, and is the next release's from now on."""
        run = self._run
        old = [name for name in run.pool.names if self.knows.get(name, 1) < NEXT]
        if not old:
            return
        name = run.rng.choice(old)
        if name in run.pool.running and not run.pool.engine(name).paused:
            if run.rng.random() < 0.7:
                run.down[name] = "stopped"
                await run.pool.stop(name)
            else:
                run.kill(name)
            self.knows[name] = NEXT
            run.note(f"{name} is upgraded")
            run.done["upgraded"] += 1
            run.revive(name)


def _note(name: str) -> Any:
    return Note(name)
