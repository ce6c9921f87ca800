"""A pool of real servers, each in a network namespace of its own where there are any.

May import `support.processes` and `network`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from support.processes import ServerPool

from chaos.network import Network
from licraft.cli.processes import run_command


class ChaosPool(ServerPool):
    """A pool of three; without a network it is on loopback, where nothing can be cut."""

    def __init__(
        self, directory: Path, network: Network | None, *, lease_s: float, ttl_s: float
    ) -> None:
        super().__init__(directory, lease_s=lease_s, ttl_s=ttl_s)
        self._network = network
        if network is not None:
            self._spread(network)

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
        """Start these servers, or all, each in its namespace."""
        for name in names or self.names:
            enter = self._network.enter(name) if self._network is not None else []
            super().start(name, run=partial(_entering, enter, run))


def _entering(enter: list[str], run: Callable[[Path], list[str]], config: Path) -> list[str]:
    return [*enter, *run(config)]
