"""A pool of real servers, each in a network namespace of its own where there are any.

May import `support.processes`, `network`, `clocks` and `disks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from support.processes import ServerPool

from chaos.clocks import WallClocks, library, unmoved
from chaos.disks import SmallDisks
from chaos.network import Network, NotPossible
from licraft.cli.processes import run_command

_PROBE_JUMP_S = -86_400


@dataclass(frozen=True, slots=True)
class Machine:
    """What a pool's servers are given of their own; what is None cannot be harmed."""

    network: Network | None = None
    own_clocks: bool = False
    own_disks: bool = False


class ChaosPool(ServerPool):
    """A pool whose servers can be harmed one by one; without a network it is on loopback.

    With `own_clocks` each server has a wall clock of its own; NotPossible says why it cannot.
    With `own_disks` each has a small disk, which needs the mount namespace of `network`.
    """

    def __init__(
        self,
        directory: Path,
        machine: Machine,
        *,
        lease_s: float,
        ttl_s: float,
        servers: int = 3,
    ) -> None:
        super().__init__(
            directory, servers, lease_s=lease_s, ttl_s=ttl_s, on_disk=machine.own_disks
        )
        self._network = machine.network
        self.clocks: WallClocks | None = None
        self.disks: SmallDisks | None = None
        if machine.network is not None:
            self._spread(machine.network)
        if machine.own_clocks:
            self.clocks = own_clocks(directory)
        if machine.own_disks:
            self.disks = SmallDisks(self.data(name) for name in self.names)

    def data(self, name: str) -> Path:
        """A server's data directory."""
        return self.directory / "data" / name

    def _spread(self, network: Network) -> None:
        """Give every server the address of its namespace, in all configurations."""
        self.planned = {
            name: replace(server, host=network.addresses[name])
            for name, server in self.planned.items()
        }
        self.urls = {name: server.api_url for name, server in self.planned.items()}
        for name, own in self.planned.items():
            path = self.directory / f"{name}.yaml"
            text = path.read_text(encoding="utf-8")
            for server in self.planned.values():
                for port in (server.api_port, server.peer_port):
                    text = text.replace(f"127.0.0.1:{port}", f"{server.host}:{port}")
            for port in (own.api_port, own.peer_port):
                text = text.replace(f"listen: {own.host}:{port}", f"listen: 0.0.0.0:{port}")
            path.write_text(text, encoding="utf-8")

    def start(self, *names: str, run: Callable[[Path], list[str]] = run_command) -> None:
        """Start these servers, or all, each in its namespace, by its clock."""
        for name in names or self.names:
            enter = self._network.enter(name) if self._network is not None else []
            if self.clocks is not None:
                enter = [*enter, *self.clocks.enter(name)]
            super().start(name, run=partial(_entering, enter, run))

    def close(self) -> None:
        """End every process that this pool started, and take its disks away."""
        try:
            super().close()
        finally:
            if self.disks is not None:
                self.disks.close()


def own_clocks(directory: Path) -> WallClocks:
    """Wall clocks that can be moved, after a trial; NotPossible says why there are none."""
    found = library()
    if found is None:
        raise NotPossible("libfaketime not found (Debian: apt-get install faketime)")
    clocks = WallClocks(found, directory)
    if wrong := unmoved(clocks, _PROBE_JUMP_S):
        raise NotPossible(f"{found} does not do here what it should: {'; '.join(wrong)}")
    return clocks


def _entering(enter: list[str], run: Callable[[Path], list[str]], config: Path) -> list[str]:
    return [*enter, *run(config)]
