"""A pool of real server processes whose peer connections pass through a `Network`.

May import `support.processes` and `support.relays`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from support.processes import Answer, ServerPool, wait_for
from support.relays import Network

SAMPLE_S = 0.02
COMMITS_WITHIN_S = 10.0
AGREE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class View:
    """Who leads in which term, as one server sees it."""

    leader: str | None
    term: int


@dataclass(slots=True)
class Watch:
    """What some servers said while they were watched, oldest first."""

    views: dict[str, list[View]] = field(default_factory=dict)

    @property
    def all(self) -> set[View]:
        """Every view that any of them had."""
        return {view for views in self.views.values() for view in views}


class RelayedPool(ServerPool):
    """A pool whose servers reach each other by relays, which know them by their processes."""

    def __init__(self, directory: Path, network: Network) -> None:
        # It tests elections: a leader that gives its place back would be another reason for one.
        super().__init__(directory, tokens=True)
        self.environ["LICRAFT_LEADER_HANDBACK"] = "false"
        self.network = network
        relays = {
            str(server.peer_port): network.relay(server.name, server.peer_port, self._dialer)
            for server in self.planned.values()
        }
        for name in self.names:
            path = self.directory / f"{name}.yaml"
            text = path.read_text(encoding="utf-8")
            for port, relay in relays.items():
                # As others know it; it listens where it did.
                address = f"peer: 127.0.0.1:{port}}}"
                assert text.count(address) == 1
                text = text.replace(address, f"peer: 127.0.0.1:{relay}}}")
            path.write_text(text, encoding="utf-8")

    def _dialer(self, port: int) -> str | None:
        """The server whose process has a connection from this port of loopback."""
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        local = f"0100007F:{port:04X}"
        sockets = {f"socket:[{line.split()[9]}]" for line in lines if line.split()[1] == local}
        for name in self.names:
            if self.running(name):
                with contextlib.suppress(OSError):
                    folder = f"/proc/{self.processes[name].process.pid}/fd"
                    if sockets & {_link(entry) for entry in os.scandir(folder)}:
                        return name
        return None

    def view(self, name: str) -> View | None:
        """Leader and term as one server sees them; None if it does not answer."""
        answer = self.get(name, "/v1/pool")
        return View(answer["leader"], answer["term"]) if answer.status == 200 else None

    def agreed(self, *names: str) -> View | None:
        """The view of these servers, or of all, if it is one view and names a leader."""
        views = {self.view(name) for name in names or self.names}
        (view,) = views if len(views) == 1 else (None,)
        return view if view is not None and view.leader is not None else None

    def wait_agreed(self, *names: str, after_term: int = 0) -> View:
        """Wait until these servers, or all, agree on a leader of a later term."""

        def elected() -> View | Literal[False]:
            view = self.agreed(*names)
            return view if view is not None and view.term > after_term else False

        return wait_for(elected, AGREE_WITHIN_S, "the servers agree on a leader")

    def applied(self, name: str) -> int:
        """The log index that a server has applied."""
        return int(self.get(name, "/v1/pool")["applied_index"])

    def wait_alike(self, within_s: float = 10.0) -> None:
        """Wait until all servers have applied what the furthest had, and hold the same state."""
        index = max(self.applied(name) for name in self.names)
        self.wait_everywhere(lambda name: self.applied(name) >= index, within_s, "all applied")
        texts = {self.get(name, "/v1/license")["text"] for name in self.names}
        assert len(texts) == 1
        assert self.unbalanced() == []

    def commit_at(self, name: str) -> float:
        """Commit a new license file at a server; the seconds that took, repeats included."""
        self._sequence += 1
        text = self.license_text({"cad": 100 + self._sequence}, sequence=self._sequence)
        begun = time.monotonic()

        def installed() -> bool:
            answer = self.propose_license(name, text)
            # A repeat of one whose outcome was unknown finds it there.
            return answer.status == 200 or answer.code == "stale_sequence"

        wait_for(installed, COMMITS_WITHIN_S, f"a commit at {name}")
        return time.monotonic() - begun

    def propose_license(self, name: str, text: str) -> Answer:
        """Ask a server once to install a license file."""
        return self.ask(name, "PUT", "/v1/license", content=text.encode(), timeout_s=15.0)

    @contextmanager
    def watched(self, *names: str) -> Iterator[Watch]:
        """Watch leader and term at these servers, or at all, for as long as the block runs."""
        over = threading.Event()
        watch = Watch({name: [] for name in names or self.names})

        def look() -> None:
            for name, views in watch.views.items():
                view = self.view(name)
                if view is not None and (not views or views[-1] != view):
                    views.append(view)

        def keep_looking() -> None:
            while not over.wait(SAMPLE_S):
                look()

        look()
        thread = threading.Thread(target=keep_looking)
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()
        look()


def _link(entry: os.DirEntry[str]) -> str:
    """What a descriptor is; nothing if it is closed by now."""
    try:
        return os.readlink(entry.path)
    except OSError:
        return ""
