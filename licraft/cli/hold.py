"""`licraft checkout`, `checkin`, `exec`: hold seats from the command line.

May import click, `cli.common`, `cli.family` and, inside functions, the client. Needs POSIX signals.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from licraft.cli.common import DENIED, Pool, pool_options, say
from licraft.cli.family import Family

if TYPE_CHECKING:
    from licraft.client import Seat

NOT_EXECUTABLE, NOT_FOUND = 126, 127
DEFAULT_GRACE_S = 10.0
LOOK_S = 1.0
KILL_AGAIN_S = 0.2

_KEPT = frozenset(
    {
        # Nobody can catch them, they tell of children, or they stop us with our command.
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD),
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
        # They tell of a fault of the process that gets them.
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT),
        *(signal.SIGTRAP, signal.SIGSYS, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGPROF),
    }
)
_PASSED = frozenset(map(int, signal.valid_signals())) - _KEPT
_FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH})
_WATCHED = _PASSED | {signal.SIGCHLD}
_ENDING = (
    *(signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGALRM, signal.SIGXCPU),
)

_COUNT = click.option(
    "-n", "--count", type=click.IntRange(1), default=1, show_default=True, help="How many seats."
)
_WAIT = click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="S",
    help="Wait up to S seconds for seats.",
)
_VERSION = click.option("--version", metavar="V", help="The program's version.")


@click.command()
@click.argument("feature")
@_COUNT
@_WAIT
@_VERSION
@pool_options
def checkout(pool: Pool, feature: str, count: int, wait: float, version: str | None) -> int:
    """Hold seats until Ctrl-C.

    They are checked in at Ctrl-C or SIGTERM (exit status 0). Exit status 1 if
    they are denied, or lost while held.

    \b
    licraft checkout cad
    licraft checkout cad -n 2 --wait 60
    """
    ended = threading.Event()
    with pool.client() as client, _ending_signals():
        _announce(feature, wait)
        with client.checkout(feature, count, wait, version, on_lost=lambda _: ended.set()) as seat:
            try:
                _show_held(pool, seat)
                _watch(seat, ended)
            except (KeyboardInterrupt, SystemExit):
                return 0
            say(_lost(seat))
            return DENIED


def _announce(feature: str, wait: float) -> None:
    errors: TextIO | None = sys.stderr  # None where it is closed
    if wait and errors is not None and errors.isatty():
        say(f"waiting up to {wait:g} s for {feature}")


def _show_held(pool: Pool, seat: Seat) -> None:
    if pool.as_json:
        facts = {"id": seat.id, "feature": seat.feature, "count": seat.count}
        click.echo(json.dumps({**facts, "server": seat.server}))
    else:
        click.echo(f"holding {seat.count} of {seat.feature} at {seat.server}, id {seat.id}")
        say("Ctrl-C checks in")


def _watch(seat: Seat, ended: threading.Event) -> None:
    """Return when the seat is lost; meanwhile say when servers stop and begin to answer."""
    before = str(seat.state)
    while not ended.wait(LOOK_S) and seat.valid:
        state = str(seat.state)
        if state != before and state == "suspended":
            say(f"no license server answers; the seat is good for {seat.remaining:.0f} s more")
        elif state != before and state == "held":
            say(f"the seat is held at {seat.server} again")
        before = state


def _lost(seat: Seat) -> str:
    why = (
        "no license server answered in time" if seat.lost_reason == "expired" else seat.lost_reason
    )
    return f"the seat of {seat.feature} was lost: {why}"


@contextmanager
def _ending_signals() -> Iterator[None]:
    """What ends a program ends this one in order, as Ctrl-C does, so that seats are returned.

    What was ignored is ignored still: so nohup(1) has it, and a shell for its background.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    heeded = [s for s in _ENDING if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, end) for s in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@click.argument("id")
@pool_options
def checkin(pool: Pool, id: str) -> None:
    """End an authorization (administrator).

    Its seats are free at once; its holder loses them at the next heartbeat.

    \b
    licraft authorizations --user ann
    licraft checkin 0d5c8a52-4f7e-4a3f-9c67-6a5a0e6f8b1d --token-file admin.token
    """
    with pool.client() as client:
        client.remove(id)
    if pool.as_json:
        click.echo(json.dumps({"removed": id}))
    else:
        click.echo(f"{id} is removed")


@click.command("exec")
@click.argument("feature")
@_COUNT
@_WAIT
@_VERSION
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=DEFAULT_GRACE_S,
    show_default=True,
    metavar="S",
    help="Seconds from SIGTERM to SIGKILL when the seat is lost.",
)
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@pool_options
def exec_(
    pool: Pool,
    feature: str,
    count: int,
    wait: float,
    version: str | None,
    grace: float,
    command: tuple[str, ...],
) -> int:
    """Run a command while holding seats.

    The exit status is CMD's (128+n if signal n ended it); 1 if no seat was to be
    had, or if it was lost and CMD was ended, with all it had started; 126 or 127 if
    CMD cannot be run. Signals are passed on to CMD, which finds LICRAFT_SEAT_ID,
    LICRAFT_FEATURE and LICRAFT_SERVER in its environment.

    \b
    licraft exec cad -- simulate model.inp
    licraft exec cad -n 2 --wait 600 --grace 30 -- make all
    """
    main_thread = threading.get_ident()
    # The client's threads leave the signals to this one, and none is acted on between the
    # command's end and ours: its status is ours, and its seat is returned.
    with _blocked() as before, pool.client() as client:
        with _listening(before):
            _announce(feature, wait)
            seat = client.checkout(
                feature,
                count,
                wait,
                version,
                on_lost=lambda _: signal.pthread_kill(main_thread, signal.SIGCHLD),
            )
        with seat:
            return _run(command, _environment(seat), seat, grace, before)


def _environment(seat: Seat) -> dict[str, str]:
    return {
        **os.environ,
        "LICRAFT_SEAT_ID": seat.id,
        "LICRAFT_FEATURE": seat.feature,
        "LICRAFT_SERVER": seat.server,
    }


@contextmanager
def _blocked() -> Iterator[set[int]]:
    """Keep the watched signals pending, for `sigtimedwait`; gives the mask of before."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take exit statuses away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        yield {int(number) for number in before}
    finally:
        while signal.sigtimedwait(_WATCHED, 0):
            pass  # what came while the command ended must not end this program instead
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _listening(mask: set[int]) -> Iterator[None]:
    """While it is waited for seats, a signal ends this program."""
    with _ending_signals():
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    seat: Seat,
    grace_s: float,
    mask: set[int],
) -> int:
    """Run `command` to its end, or end it when the seat is lost; returns the exit status."""
    family = Family()
    try:
        child = os.posix_spawnp(
            command[0],
            list(command),
            environment,
            setsigmask=mask,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except FileNotFoundError:
        say(f"{command[0]}: command not found")
        return NOT_FOUND
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        say(f"{command[0]}: cannot be run: {said}")
        return NOT_EXECUTABLE
    family.add(child)
    status = _supervise(child, family, seat)
    if status is None:
        say(f"{_lost(seat)}; ending the command")
        _end(family, grace_s, time.monotonic)
        return DENIED
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _supervise(child: int, family: Family, seat: Seat) -> int | None:
    """Pass signals on until `child` ends; its status, or None if the seat was lost before.

    All in one thread, which also buries the child: no signal can reach a process
    that has taken over its number.
    """
    while True:
        status = family.bury()
        if status is not None:
            return status
        if not seat.valid:
            return None
        info = signal.sigtimedwait(_WATCHED, min(seat.remaining, LOOK_S))
        if info is not None and info.si_signo in _PASSED and not _from_terminal(info):
            os.kill(child, info.si_signo)


def _end(family: Family, grace_s: float, clock: Callable[[], float]) -> None:
    """End a family, and return when nobody of it is left."""
    family.signal(signal.SIGTERM)
    family.signal(signal.SIGCONT)
    kill_at, killed = clock() + grace_s, False
    while True:
        family.bury()
        if not family.lives():
            return
        if clock() >= kill_at:
            if not killed:
                say(f"the command did not end within {grace_s:g} s; killing it")
            family.signal(signal.SIGKILL)
            kill_at, killed = clock() + KILL_AGAIN_S, True
        signal.sigtimedwait(_WATCHED, min(max(kill_at - clock(), 0.0), LOOK_S))


def _from_terminal(info: signal.struct_siginfo) -> bool:
    """Whether the kernel sent a signal for a key or a resize: then the command got it as well.

    Codes above 0 are the kernel's, others another process's (sigaction(2)). The
    command is in our process group, so a terminal reaches it without us. A process that
    signals the whole group reaches it twice: whom it meant is not told.
    """
    return info.si_signo in _FROM_TERMINAL and info.si_code > 0
