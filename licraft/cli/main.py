"""The `licraft` command: which commands there are, and what their failures exit with.

May import click, `errors` and `cli.common`. A command's module is imported when that
command runs, so that `licraft --help` is quick and `licraft exec` loads no server.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any, NoReturn

import click

from licraft import __version__
from licraft.cli.common import OK, exit_status, message

COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("licraft.cli.observe:status", "The pool at a glance."),
    "features": ("licraft.cli.observe:features", "What is licensed, in use and free."),
    "servers": ("licraft.cli.observe:servers", "The pool's license servers."),
    "authorizations": ("licraft.cli.observe:authorizations", "Who holds which seats."),
    "checkout": ("licraft.cli.hold:checkout", "Hold seats until Ctrl-C."),
    "checkin": ("licraft.cli.hold:checkin", "End an authorization (administrator)."),
    "exec": ("licraft.cli.hold:exec_", "Run a command while holding seats."),
    "license": (
        "licraft.cli.license:license_",
        "Install and check license files, add codes.",
    ),
    "audit": (
        "licraft.cli.audit:audit",
        "What administrators changed, tamper-evident.",
    ),
    "pool": ("licraft.cli.pool:pool", "What the software vendor needs to know of the pool."),
    "distribution": (
        "licraft.cli.criteria:distribution",
        "How a feature's seats are shared out.",
    ),
    "allocations": (
        "licraft.cli.criteria:allocations",
        "How many licensed seats are deployed.",
    ),
    "borrowing": (
        "licraft.cli.criteria:borrowing",
        "When seats move between servers.",
    ),
    "leader": ("licraft.cli.leader:leader", "Who leads the pool."),
    "server": ("licraft.cli.server:server", "Add, drain and remove servers."),
    "vendor": ("licraft.cli.vendor:vendor", "Make keys, codes and license files (vendor)."),
    "init": ("licraft.cli.init:init", "Write the configuration of a new pool."),
    "run": ("licraft.cli.run:run", "Run one license server in the foreground."),
    "demo": ("licraft.cli.demo:demo", "Run a whole pool on this machine, to try things."),
}
"""Name -> (module:attribute, the line that `licraft --help` shows)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def __init__(
        self, *args: Any, table: dict[str, tuple[str, str]] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.table = table or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of this name."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])

    def main(  # type: ignore[override]  # click's own signature differs between its versions
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line; every failure becomes one line and an exit status here."""
        try:
            status = super().main(args, standalone_mode=False, **extra)
        except (Exception, KeyboardInterrupt) as error:
            # Whatever went wrong, the contract has an exit status for it; what
            # has none is a fault of ours and shown whole.
            if not standalone_mode or exit_status(error) is None:
                raise
            message(error)
            sys.exit(exit_status(error))
        if not standalone_mode:
            return status
        sys.exit(status if isinstance(status, int) else OK)


_SETTINGS: MutableMapping[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}


@click.command(cls=LazyGroup, table=COMMANDS, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="licraft")
def cli() -> None:
    """A floating-license server pool that never issues a seat too many.

    \b
    licraft demo                          a whole pool on this machine, to try things
    licraft status --server http://alpha:7700
    licraft exec cad --wait 60 -- simulate model.inp

    Servers are named by --server, or by LICRAFT_SERVERS. Exit status: 0 done, 1 denied,
    2 usage or configuration, 3 no server could answer, 4 license invalid or not newer,
    5 not authorized, 130 interrupted.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the `licraft` command."""
    cli.main(args, prog_name="licraft")
    sys.exit(OK)
