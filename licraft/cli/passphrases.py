"""Where a command gets a passphrase: a file, the environment, or whoever sits at the terminal.

May import click and the vendor room's limits. Never from an argument: those are in the
process list and in the shell's history. Must not print what it was given.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from licraft.vendor.keys import MAX_PASSPHRASE_CHARS

VARIABLE = "LICRAFT_VENDOR_PASSPHRASE"


def given(file: Path | None) -> str | None:
    """The passphrase in `file`, or else in the environment; None if there is none."""
    if file is None:
        return os.environ.get(VARIABLE) or None
    try:
        # Text that is no UTF-8 may be a passphrase too: its bytes count.
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            passphrase = stream.read(MAX_PASSPHRASE_CHARS + 3).removesuffix("\n").removesuffix("\r")
    except OSError as fault:
        raise click.UsageError(f"--passphrase-file {file}: {fault.strerror}") from None
    if not passphrase or "\n" in passphrase:
        raise click.UsageError(f"--passphrase-file {file}: expected one line, the passphrase")
    return passphrase


def asked(prompt: str, *, twice: bool = False) -> str:
    """What is typed at the terminal, unseen; a usage error where there is none."""
    if not has_terminal():
        raise click.UsageError(
            f"there is no terminal to ask for a passphrase ({prompt}): give it in {VARIABLE} or by"
            " --passphrase-file FILE"
        )
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return answer


def has_terminal() -> bool:
    """Whether somebody can be asked, also while standard input brings something else."""
    if sys.stdin.isatty():
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True
