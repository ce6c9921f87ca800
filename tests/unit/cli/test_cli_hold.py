"""Which signals are passed on."""

from __future__ import annotations

import signal

import pytest

from licraft.cli.hold import _from_terminal

USER, KERNEL, QUEUED = 0, 0x80, -1  # sigaction(2): SI_USER, SI_KERNEL, SI_QUEUE


def info(number: signal.Signals, code: int) -> signal.struct_siginfo:
    return signal.struct_siginfo((number, code, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH])
def test_what_the_terminal_sent_has_reached_the_command(number: signal.Signals) -> None:
    assert _from_terminal(info(number, KERNEL))
    assert not _from_terminal(info(number, USER))
    assert not _from_terminal(info(number, QUEUED))


def test_a_hang_up_is_always_passed_on() -> None:
    """The kernel sends it to a session's leader alone, and that may be us."""
    assert not _from_terminal(info(signal.SIGHUP, KERNEL))
    assert not _from_terminal(info(signal.SIGTERM, USER))
