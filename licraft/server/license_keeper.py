"""The redundant license file on this server: its copy on disk, and the pool's.

May import the core, the vendor room, settings' values and `errors`. Every server keeps
the installed file in its data directory. At its start it offers the newest file that it
has; the pool takes it if the number is greater than its own. Source: pool protocol,
section 8; claims R10, R19.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Coroutine, Sequence
from pathlib import Path

from licraft.core.codec import encode_entry
from licraft.core.commands import Entry, InstallLicense
from licraft.core.license import LicenseFile
from licraft.core.outcomes import Code, Effect
from licraft.core.state import PoolState
from licraft.errors import LicenseError, NotExecuted
from licraft.replication.engine import MAX_COMMAND_BYTES
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.vendor.keys import VendorPublicKey
from licraft.vendor.license_file import parse_license_file, read_license_file

log = logging.getLogger(__name__)


class LicenseKeeper:
    """Installs license files, and keeps this server's copy of the installed one."""

    def __init__(
        self,
        server: str,
        pool: ReplicatedPool,
        proposer: Proposer,
        keys: Sequence[VendorPublicKey],
        copy: Path,
        given: Path | None,
    ) -> None:
        """`copy` is the file in the data directory, `given` the configured license file."""
        self._server = server
        self._pool = pool
        self._proposer = proposer
        self._keys = keys
        self._copy = copy
        self._given = given
        # Read before the pool's file takes its place: it may be newer.
        self._found = _read(copy)
        self._offered = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._distrusted: frozenset[str] = frozenset()
        self.trouble: list[str] = []

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    def trusts(self, feature: str) -> bool:
        """Whether this server's own vendor keys verify the codes of a feature."""
        return feature not in self._distrusted

    def changed(self) -> None:
        """The pool has another file: copy it, and verify it with this server's own keys."""
        installed = self.state.license
        if installed.sequence:
            self._spawn(self._follow(installed))

    def offer(self) -> None:
        """Offer the newest file that this server has; once, when it starts to act."""
        if not self._offered:
            self._offered = True
            self._spawn(self._offer())

    async def install(self, text: str) -> int:
        """Verify a file and commit it; returns its sequence number.

        Raises LicenseError with the contract's code (invalid_license, stale_sequence),
        and NotExecuted or OutcomeUnknown when the pool could not commit.
        """
        file = await asyncio.to_thread(read_license_file, text, self._keys, self.state.pool)
        command = InstallLicense(file)
        size = len(
            await asyncio.to_thread(
                encode_entry, Entry(self._server, 0, 0, (command,)), self.state.version
            )
        )
        if size > MAX_COMMAND_BYTES - 64 * 1024:
            raise LicenseError(
                f"the license file is too large to be replicated ({size} bytes as a command, "
                f"at most {MAX_COMMAND_BYTES - 64 * 1024}): have the vendor merge its codes"
            )
        outcome = await self._proposer.submit(command)
        if outcome.effect is Effect.DONE:
            return file.sequence
        if outcome.effect is Effect.STALE:
            raise NotExecuted("this server was down when the license file was committed")
        if outcome.code == Code.STALE_SEQUENCE:
            same = "with other content " if outcome.count == file.sequence else ""
            raise LicenseError(
                f"sequence {file.sequence} is not newer: the pool has {outcome.count} {same}"
                f"installed; ask the vendor for a file numbered {outcome.count + 1} or more",
                Code.STALE_SEQUENCE,
            )
        raise LicenseError(f"the pool refused the file: {outcome.code}", outcome.code)

    async def _offer(self) -> None:
        """Install the newer of the configured file and the copy, if the pool's is older."""
        if self._given is not None:
            given = await asyncio.to_thread(_read, self._given)
            await self._offer_text(self._given, given)
        await self._offer_text(self._copy, self._found)

    async def _offer_text(self, source: Path, text: str | OSError | UnicodeDecodeError) -> None:
        if isinstance(text, FileNotFoundError):
            if source == self._given:
                log.info("%s: no license file there yet", source)
            return
        if not isinstance(text, str):
            self._note(f"license file {source} cannot be read: {text}")
            return
        try:
            file = await asyncio.to_thread(parse_license_file, text, self._keys)
            if file.sequence < self.state.license.sequence:
                log.info(
                    "%s: sequence %d is older than the pool's %d, which stays",
                    source,
                    file.sequence,
                    self.state.license.sequence,
                )
            elif file.sequence > self.state.license.sequence or text != self.state.license.text:
                sequence = await self.install(text)
                log.info("%s: sequence %d is the pool's license now", source, sequence)
        except LicenseError as fault:
            self._note(f"license file {source} was not installed: {fault}")
        except NotExecuted as fault:
            self._offered = False
            log.warning("%s: not installed yet: %s", source, fault)

    async def _follow(self, installed: LicenseFile) -> None:
        """Write the copy, keeping the previous one, and judge the codes by own keys."""
        try:
            await asyncio.to_thread(_replace, self._copy, installed.text)
        except OSError as fault:
            self._note(f"{self._copy}: the license copy cannot be written: {fault.strerror}")
        try:
            own = await asyncio.to_thread(parse_license_file, installed.text, self._keys)
            distrusted = {code.feature for code in own.codes if not code.trusted}
        except LicenseError as fault:
            distrusted = {code.feature for code in installed.codes}
            self._note(f"the installed license cannot be read here: {fault}")
        self._distrusted = frozenset(distrusted)
        for feature in sorted(distrusted):
            self._note(
                f"{feature}: this server's vendor_keys do not verify its license code, "
                "so it grants none; give it the vendor's public key and restart it"
            )

    def _note(self, text: str) -> None:
        if text not in self.trouble:
            log.error("%s", text)
            self.trouble = [*self.trouble, text][-20:]

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def text_digest(text: str) -> str:
    """SHA-256 of a license file's text, in hexadecimal; empty for no text."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _read(path: Path) -> str | OSError | UnicodeDecodeError:
    """The text of a file, or why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        return fault


def _replace(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all; what was there stays as `.previous`."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    aside = path.with_suffix(".new")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        os.replace(path, path.with_suffix(".previous"))
    os.replace(aside, path)
