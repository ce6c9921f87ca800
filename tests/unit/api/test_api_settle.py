"""What an answer promises is written down before the answer leaves."""

from __future__ import annotations

import asyncio

from licraft.api.limits import Limits
from licraft.api.protocol import Shared


class _Transport(asyncio.Transport):
    """Notes what is written to it, in one history with the settling."""

    def __init__(self, history: list[str]) -> None:
        super().__init__()
        self._history = history
        self.gone = False

    def is_closing(self) -> bool:
        return self.gone

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._history.append(bytes(data).decode())


def test_one_settling_comes_before_all_the_answers_of_a_turn() -> None:
    async def scenario() -> list[str]:
        history: list[str] = []
        shared = Shared({}, Limits(), lambda: history.append("settled"))
        transport = _Transport(history)
        shared.send(transport, b"one")
        shared.send(transport, b"two")
        assert history == []
        await asyncio.sleep(0)
        shared.send(transport, b"three")
        await asyncio.sleep(0)
        return history

    assert asyncio.run(scenario()) == ["settled", "one", "two", "settled", "three"]


def test_a_client_that_has_gone_is_not_written_to() -> None:
    async def scenario() -> list[str]:
        history: list[str] = []
        shared = Shared({}, Limits(), lambda: history.append("settled"))
        transport = _Transport(history)
        shared.send(transport, b"one")
        transport.gone = True
        await asyncio.sleep(0)
        return history

    assert asyncio.run(scenario()) == ["settled"]


def test_many_answers_do_not_wait_for_the_turn_to_end() -> None:
    """Otherwise a client that sends and never reads would fill the memory unnoticed."""

    async def scenario() -> int:
        history: list[str] = []
        shared = Shared({}, Limits(), lambda: None)
        transport = _Transport(history)
        for _ in range(1000):
            shared.send(transport, b"x")
        return len(history)

    assert asyncio.run(scenario()) > 500
