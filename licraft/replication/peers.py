"""Authenticated connections between the servers of a pool, on the event loop.

May import asyncio, ssl, pysyncobj's Transport interface, `link` and `messages`. It knows
servers by name and moves bytes; what they mean is for the handlers.

One connection per pair of servers: the one whose name sorts later dials. With peer
security it is TLS 1.3 in which both sides show a certificate of the pool's CA whose
subjectAltName holds the server's name as a DNS name.

Raft's frames wait in memory until `seal` and `release`, which the engine calls before and
after it syncs its journal; others until `flush`.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from licraft.errors import PeerUnreachable, SettingsError
from licraft.replication import messages
from licraft.replication.directory import Directory, split_address
from licraft.replication.engine import AskHandler, Members
from licraft.replication.link import PING, RAFT, Link
from licraft.replication.listener import Listener
from licraft.replication.messages import MAX_FRAME_BYTES, Message

log = logging.getLogger(__name__)

MAX_STRANGERS = 64
CONNECT_S = 2.0
SILENCE_S = 2.0
PING_S = 0.5
WONDER_S = 3.0
RETRY_S = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class PeerTls:
    """Paths of PEM files: the pool's CA, this server's certificate and its private key."""

    ca: Path
    cert: Path
    key: Path

    def certificate_ends_s(self) -> float:
        """When this server's certificate expires, in seconds since 1970; raises SettingsError."""
        try:
            certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())
        except (OSError, ValueError) as fault:
            raise SettingsError("peer_tls", [f"cert {self.cert}: {fault}"]) from fault
        return certificate.not_valid_after_utc.timestamp()

    def context(self, *, accepts: bool) -> ssl.SSLContext:
        """TLS 1.3 with a required certificate of the pool's CA; raises SettingsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if accepts else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Servers are known by pool name, not by where they listen: `Link` checks the name.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.ca)
            # An empty password: an encrypted key is an error, not a question on the terminal.
            context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as fault:
            # An SSL error names no file, so all three are named.
            raise SettingsError(
                "peer_tls", [f"{fault}: check ca {self.ca}, cert {self.cert} and key {self.key}"]
            ) from fault
        return context


class Peers(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """The connections of one server to the others, in the shape of PySyncObj's Transport."""

    def __init__(
        self,
        pool: str,
        server: str,
        members: Mapping[str, str],
        tls: PeerTls | None,
        on_ask: AskHandler,
        clock: Callable[[], float],
        rng: random.Random,
        *,
        joining: bool = False,
    ) -> None:
        """`members` maps each server's name to its peer address, `host:port`.

        One that is `joining` forms no pool with anybody. Raises SettingsError.
        """
        super().__init__(None, Node(server), [])
        self.pool = pool
        self.server = server
        self._founders = hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()
        self._joining = joining
        self.clock = clock
        self.on_ask = on_ask
        self.on_activity: Callable[[], None] = _ignore
        self.leading: Callable[[], int | None] = _lead_nothing
        self.on_fault: Callable[[BaseException], None] = _ignore_fault
        self._directory = Directory(server, members)
        self._rng = rng
        self._accepting = tls.context(accepts=True) if tls else None
        self._dialing = tls.context(accepts=False) if tls else None
        self._certificate_ends_s = tls.certificate_ends_s() if tls else None
        self._nodes: dict[str, Node] = {}
        self._links: dict[str, Link] = {}
        # In the order in which they came.
        self._strangers: dict[Link, None] = {}
        self._listener = Listener(lambda: Link(self, None), self._accepting, CONNECT_S)
        self._watching: list[asyncio.Task[None]] = []
        self._dials: dict[str, asyncio.Task[None]] = {}
        self._turned_away = ""
        self._refusals: dict[str, str] = {}
        self._started = False
        self._stopping = False

    @property
    def secure(self) -> bool:
        """Whether peers have to show certificates."""
        return self._accepting is not None

    @property
    def leading_term(self) -> int | None:
        """The term that this server leads now, if it does: its answer to a check (R22)."""
        return self.leading()

    @property
    def connected(self) -> frozenset[str]:
        """The servers with a live connection."""
        return frozenset(self._links)

    @property
    def certificate_ends_s(self) -> dict[str, float]:
        """When the certificates of this server and of its peers expire, in seconds since 1970."""
        found = {name: link.certificate_ends_s for name, link in self._links.items()}
        found[self.server] = self._certificate_ends_s
        return {name: ends_s for name, ends_s in found.items() if ends_s is not None}

    async def start(self, listen: str) -> None:
        """Listen, and dial those servers that this one has to dial; raises SettingsError."""
        host, port = split_address(listen)
        others = self._directory.others
        reachable_by_all = not self.secure and not _is_loopback(host)
        if others and reachable_by_all:
            raise SettingsError(
                "peer_tls", [f"missing, and {listen} can be reached from other machines"]
            )
        # Alone it listens too, for one that may be added.
        if not reachable_by_all:
            try:
                await self._listener.open(host, port)
            except OSError as fault:
                reason = fault.strerror or str(fault)
                raise SettingsError("servers", [f"cannot listen on {listen}: {reason}"]) from fault
        loop = asyncio.get_running_loop()
        self._watching = [loop.create_task(self._watch()), loop.create_task(self._wonder())]
        self._started = True
        self._meet()

    @property
    def founders(self) -> str:
        """A digest of the servers of which this one would form a pool; empty if there is one."""
        return "" if self._joining or self._directory.index else self._founders

    @property
    def turned_away(self) -> str:
        """Why another server refuses this one, if one does and none is connected."""
        return "" if self._links else next(iter(self._refusals.values()), "")

    def knows(self, server: str) -> bool:
        """Whether a server is in the pool, by the newest word of it."""
        return server in self._directory.others

    def expects(self, server: str, *, check: bool) -> bool:
        """Whether it is for that server to dial: its name sorts later, or it only checks."""
        return check or server > self.server

    def set_members(self, members: Members) -> None:
        """Follow the log: meet who has joined, part with who is gone, tell the others."""
        if self._directory.apply(members):
            self._meet()

    def hear_members(self, server: str, index: int, entries: list[tuple[str, str]]) -> None:
        """Follow another server's newer word; raises ValueError if it is malformed."""
        if self._directory.hear(index, entries):
            log.debug("%s knows of a newer list of servers, of log index %d", server, index)
            self._meet()

    def link_refused(self, server: str, reason: str) -> None:
        """Another server does not let this one in: say so once."""
        if self._refusals.get(server) != reason:
            log.error("%s refuses this server: %s", server, reason)
        self._refusals[server] = reason

    def _meet(self) -> None:
        """Have a node and, where it is for this server to dial, a connection for each other one."""
        if not self._started or self._stopping:
            return
        others = self._directory.others
        for name in sorted(self._nodes.keys() - others):
            dial = self._dials.pop(name, None)
            if dial is not None:
                dial.cancel()
            if name in self._links:
                self._links[name].turn_away(f"{name!r} is no server of the pool any more")
            del self._nodes[name]
            self._refusals.pop(name, None)
        for name in sorted(others - self._nodes.keys()):
            self._nodes[name] = Node(name)
            if name < self.server:
                dial = asyncio.get_running_loop().create_task(self._keep_dialing(name))
                self._dials[name] = dial
        for link in list(self._links.values()):
            self._tell(link)

    def _tell(self, link: Link) -> None:
        """Tell a peer whom this server knows, once the pool has been formed."""
        if self._directory.index:
            link.tell_members(self._directory.index, self._directory.entries)
            self.on_activity()

    # pysyncobj.transport.Transport

    def send(self, node: Node, message: Message) -> bool:
        """Keep a Raft message for the end of this turn; whether the peer is connected."""
        link = self._links.get(node.id)
        return link is not None and link.send(RAFT, messages.encode(message))

    def destroy(self) -> None:
        """Close the listener and every connection, at once."""
        self._stopping = True
        self.setOnMessageReceivedCallback(None)
        self.setOnNodeConnectedCallback(None)
        self.setOnNodeDisconnectedCallback(None)
        self.on_activity = _ignore
        self._listener.close()
        for task in [*self._watching, *self._dials.values()]:
            task.cancel()
        for link in [*self._links.values(), *self._strangers]:
            link.close("this server stops")

    # For the engine.

    async def ask(self, server: str, body: bytes, timeout_s: float) -> bytes:
        """Ask another server's handler; raises PeerUnreachable, or ValueError if too large."""
        if len(body) > MAX_FRAME_BYTES // 2:
            raise ValueError(f"a question of {len(body)} bytes: at most {MAX_FRAME_BYTES // 2}")
        link = self._links.get(server)
        if link is None:
            raise PeerUnreachable(f"{server} is not connected")
        return await link.ask(body, timeout_s)

    async def check(self, server: str, timeout_s: float) -> int | None:
        """The term that another server says it leads, over a fresh connection (R22).

        None if it does not lead, or does not answer in time.
        """
        link: Link | None = None
        try:
            async with asyncio.timeout(timeout_s):
                link = await self._connect(server, check=True)
                await link.lost
        except (OSError, TimeoutError):
            if link is not None:
                link.close("it did not answer a check in time")
            return None
        return link.leading

    def seal(self) -> None:
        """Everything kept so far may leave once the journal's sync that begins now is done."""
        for link in self._links.values():
            link.seal()

    def release(self) -> None:
        """The sync is done: let what was sealed leave."""
        for link in list(self._links.values()):
            link.release()
            link.flush()

    def flush(self) -> None:
        """Let leave what needs no sync: questions and answers."""
        for link in list(self._links.values()):
            link.flush()

    def pending_bytes(self, server: str) -> int:
        """What a peer has not taken yet, in bytes."""
        link = self._links.get(server)
        return link.unsent_bytes if link is not None else 0

    # For links.

    def stranger_came(self, link: Link) -> None:
        """A connection without a hello yet; of too many the oldest is turned away.

        A server of the pool says hello at once: only those who do not grow old.
        """
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            oldest.close(f"{MAX_STRANGERS} others have come since, and it has not said hello")
        self._strangers[link] = None

    def link_ready(self, link: Link, server: str) -> None:
        """A peer is known: its new connection replaces the one before, which is closed first."""
        self._strangers.pop(link, None)
        before = self._links.get(server)
        if before is not None:
            before.close("it connected anew")
        self._links[server] = link
        self._refusals.clear()
        log.info("connected to %s", server)
        self._tell(link)
        self._onNodeConnected(self._nodes[server])
        self.on_activity()

    def link_closed(self, link: Link, reason: str | None) -> None:
        """A connection has ended, known or not."""
        self._strangers.pop(link, None)
        server = link.server
        if server is None:
            if reason is None:
                return
            # Whoever knocks every second for the same reason is told of once.
            level = logging.DEBUG if reason == self._turned_away else logging.WARNING
            self._turned_away = reason
            log.log(level, "closed a connection that had not said a good hello: %s", reason)
        elif self._links.get(server) is link:
            del self._links[server]
            level = logging.INFO if self._stopping else logging.WARNING
            log.log(level, "lost the connection to %s: %s", server, reason)
            self._onNodeDisconnected(self._nodes[server])
            self.on_activity()

    def deliver(self, server: str, message: Message) -> None:
        """Hand a Raft message to PySyncObj; what goes wrong there is not the peer's fault."""
        try:
            self._onMessageReceived(self._nodes[server], message)
        except Exception as fault:  # noqa: BLE001  # Of any kind, it ends this server's part.
            self.on_fault(fault)

    # Tasks.

    async def _connect(self, server: str, *, check: bool) -> Link:
        """Connect to a server, whose name is resolved anew each time; raises OSError."""
        address = self._directory.address(server)
        if address is None:
            raise ConnectionRefusedError(f"{server} is no server of the pool")
        host, port = split_address(address)
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: Link(self, server, check=check),
            host,
            port,
            ssl=self._dialing,
            server_hostname="" if self.secure else None,
        )
        return link

    async def _keep_dialing(self, server: str) -> None:
        """Have a connection to `server`, again and again."""
        told = False
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    link = await self._connect(server, check=False)
                told = False
                await link.lost
            except (OSError, TimeoutError) as fault:
                if not told:
                    address = self._directory.address(server)
                    log.warning("cannot connect to %s at %s: %s", server, address, fault)
                told = True
                self._directory.failed(server)
            await asyncio.sleep(self._rng.uniform(*RETRY_S))

    async def _wonder(self) -> None:
        """Find out why nobody comes: one that was removed is not dialed any more."""
        while True:
            await asyncio.sleep(WONDER_S)
            for name in sorted(self._directory.others):
                if not self._links and name > self.server:
                    await self.check(name, CONNECT_S)

    async def _watch(self) -> None:
        """Ping where it is quiet; close what is silent, half open (L6) or never says hello."""
        woken_at = self.clock()
        while True:
            await asyncio.sleep(PING_S)
            now = self.clock()
            # If this process itself was held up, it has not heard anyone; that is no silence.
            held_up_s = max(0.0, now - woken_at - 2 * PING_S)
            woken_at = now
            for link in list(self._links.values()):
                link.received_at += held_up_s
                if now - link.received_at > SILENCE_S:
                    link.close(f"it was silent for {SILENCE_S:g} s")
                elif now - link.sent_at > PING_S:
                    link.send(PING, b"")
                    link.flush()
            for link in list(self._strangers):
                if now - link.made_at > CONNECT_S:
                    link.close(f"it said no hello within {CONNECT_S:g} s")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; other names than localhost may lie."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _lead_nothing() -> int | None:
    """Without an engine, this server leads nothing."""
    return None


def _ignore_fault(fault: BaseException) -> None:
    """Nobody listens for faults: before the engine starts and after it stops."""


def _ignore() -> None:
    """Nobody wants to know of activity: before the engine starts and after it stops."""
