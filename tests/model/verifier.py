"""Builds the verifier of the model by spin and a C compiler, runs it, and reads what it says.

May import the standard library and `parts`. Everything is built in a temporary directory;
a search ends by itself, or when its time or its memory is over. Decides nothing about what a
search should have found.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from model.parts import Part, Rule

_MODEL = Path(__file__).parent
_MAIN = "pool.pml"
_BUILD_S = 120.0
_TRAIL_S = 60.0
# Of a search to the end the path back is kept: as many steps as a part could need.
_MAX_DEPTH = 20_000_000
_HASH_BITS = 26
_CUT_SHORT = ("Search not completed", "max search depth too small")


class Result(StrEnum):
    """What became of a search."""

    HOLDS = "holds everywhere"
    VIOLATED = "counterexample"
    TIME_OVER = "time is over"
    MEMORY_OVER = "memory is over"
    FAILED = "did not run"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one search found, in how many states; of a counterexample its events in order."""

    result: Result
    states: int
    depth: int
    seconds: float
    memory_mb: int
    trail: tuple[str, ...] = ()
    said: str = ""


class NotBuilt(Exception):
    """The verifier could not be built; says what the tool said."""


def missing() -> list[str]:
    """The programs that are needed here and are not installed."""
    return [name for name in ("spin", "gcc") if shutil.which(name) is None]


def search(part: Part, *, time_s: float, memory_mb: int) -> Verdict:
    """Search a part of the model with all rules, to its end.

    Raises NotBuilt if spin or the compiler refuse.
    """
    return _search(part, part.switches(), time_s, memory_mb, by_breadth=False)


def search_without(rule: Rule, *, time_s: float, memory_mb: int) -> Verdict:
    """Search the part of a rule without it, by breadth: the first counterexample is a shortest.

    If there has to be none it is a search to the end. Raises NotBuilt like `search`.
    """
    switches = rule.part.switches(rule.switch, named=not rule.harmless)
    return _search(rule.part, switches, time_s, memory_mb, by_breadth=not rule.harmless)


def _search(
    part: Part, switches: list[str], time_s: float, memory_mb: int, *, by_breadth: bool
) -> Verdict:
    with _built(switches, by_breadth=by_breadth, memory_mb=memory_mb) as folder:
        begun_s = time.monotonic()
        try:
            said = _run(_command(folder, deep=part.deep and not by_breadth), folder, time_s)
        except subprocess.TimeoutExpired:
            return Verdict(Result.TIME_OVER, 0, 0, time.monotonic() - begun_s, 0)
        seconds = time.monotonic() - begun_s
        trail: tuple[str, ...] = ()
        if by_breadth and (folder / f"{_MAIN}.trail").exists():
            trail = _trail(folder, switches)
        return read(said, seconds, trail)


def read(said: str, seconds: float, trail: tuple[str, ...] = ()) -> Verdict:
    """What a verifier's closing report means."""
    if "assertion violated" in said:
        result = Result.VIOLATED
    elif "reached -DMEMLIM" in said or "out of memory" in said:
        result = Result.MEMORY_OVER
    elif "errors: 0" in said and not any(cut in said for cut in _CUT_SHORT):
        result = Result.HOLDS
    else:
        result = Result.FAILED
    return Verdict(
        result,
        _number(r"(\d+) states, stored", said),
        _number(r"depth reached (\d+)", said),
        seconds,
        _number(r"(\d+)\.\d+\s+total actual memory usage", said),
        trail,
        said if result is Result.FAILED else "",
    )


def _command(folder: Path, *, deep: bool) -> list[str]:
    """The verifier's command; a deep search has more room for its path and for its states."""
    if deep:
        return [str(folder / "pan"), "-E", f"-m{_MAX_DEPTH}", f"-w{_HASH_BITS}"]
    return [str(folder / "pan"), "-E", f"-m{_MAX_DEPTH // 8}", f"-w{_HASH_BITS - 4}"]


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    return int(found.group(1)) if found else 0


@contextmanager
def _built(switches: list[str], *, by_breadth: bool, memory_mb: int) -> Iterator[Path]:
    """A temporary directory with the model and its verifier, `pan`."""
    with tempfile.TemporaryDirectory(prefix="licraft-model-") as name:
        folder = Path(name)
        for source in _MODEL.glob("*.pml"):
            shutil.copy(source, folder)
        options = ["-DSAFETY", "-DNOBOUNDCHECK", f"-DMEMLIM={memory_mb}"]
        if by_breadth:
            options.append("-DBFS")
        for command in (
            ["spin", "-a", *switches, _MAIN],
            ["gcc", "-O2", "-w", *options, "-o", "pan", "pan.c"],
        ):
            try:
                said = _run(command, folder, _BUILD_S)
            except subprocess.TimeoutExpired as fault:
                raise NotBuilt(f"{command[0]} did not end within {_BUILD_S:.0f} s") from fault
            if "Error:" in said or "error:" in said:
                raise NotBuilt(f"{' '.join(command)} said:\n{said}")
        if not (folder / "pan").exists():
            raise NotBuilt("the compiler made no verifier")
        yield folder


def _trail(folder: Path, switches: list[str]) -> tuple[str, ...]:
    """The events of a counterexample, as the model words them."""
    try:
        said = _run(["spin", "-t", "-T", *switches, _MAIN], folder, _TRAIL_S)
    except subprocess.TimeoutExpired:
        return ()
    events = (line.strip() for line in said.splitlines())
    return tuple(
        line
        for line in events
        if line and not re.match(r"spin:|#|-{3,}|\d+ process|\d+:\s|\S+ = ", line)
    )


def _run(command: list[str], folder: Path, time_s: float) -> str:
    """Everything that a program says; it is ended when its time is over."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=time_s,
        check=False,
    )
    return done.stdout
