"""The holders of a scenario, in processes of their own, as the suite directs them.

May import `reports` and the support packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from chaos.reports import HolderReport, Orders, Tally

T = TypeVar("T")

PER_PROCESS = 500
END_S = 30.0
_TESTS = Path(__file__).parents[1]


class Crowd:
    """Processes full of holders, or visitors; used as a context manager, whose end ends them."""

    def __init__(self, log: Path, module: str = "chaos.holders") -> None:
        self._log = log
        self._module = module
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def gather(self, orders: Orders, enter: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start the holders; `enter` is the command that enters their network."""
        path = os.pathsep.join([str(_TESTS), str(_TESTS.parent)])
        for start in range(0, len(orders.wishes), PER_PROCESS):
            part = msgspec.structs.replace(
                orders,
                wishes=orders.wishes[start : start + PER_PROCESS],
                seed=orders.seed + start,
                raw=0 if start else orders.raw,
            )
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    [*enter, sys.executable, "-m", self._module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**environ, "PYTHONPATH": path},
                )
            self._processes.append(process)
            self._say(process, msgspec.json.encode(part))

    def tally(self) -> Tally:
        """What all hold together now."""
        seats: Counter[str] = Counter()
        holding = 0
        for tally in self._ask(b"tally", Tally):
            seats.update(tally.seats)
            holding += tally.holding
        return Tally(holding, dict(seats))

    def end(self) -> list[HolderReport]:
        """Have everybody give back what it holds; what they went through."""
        return [report for part in self._ask(b"end", list[HolderReport]) for report in part]

    def leave(self) -> None:
        """Have every visitor give back what it holds, and wait for that."""
        self._ask(b"end", bool)

    def _ask(self, command: bytes, answer: type[T]) -> list[T]:
        for process in self._processes:
            self._say(process, command)
        lines = [_pipe(process.stdout).readline() for process in self._processes]
        if not all(lines):
            end = self._log.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise RuntimeError(f"a process of holders ended: {end}")
        return [msgspec.json.decode(line, type=answer) for line in lines]

    @staticmethod
    def _say(process: subprocess.Popen[bytes], line: bytes) -> None:
        pipe = _pipe(process.stdin)
        pipe.write(line + b"\n")
        pipe.flush()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
