"""The redundant license file on this server: what it was given, and the pool's.

May import the core, the vendor room, settings' values and `errors`. Every server keeps the
installed file in its data directory. Whenever it comes to act, and when it is told to, it
compares the files that it was given with the pool's: the greater number wins, the pool keeps
its own of equal numbers, and says so if they differ. Source: pool protocol, section 8;
claims R10, R19, B11.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from licraft.core.codec import encode_entry
from licraft.core.commands import Entry, InstallLicense, LicenseConflict
from licraft.core.distribution import parse_distribution
from licraft.core.license import CodeStatus, LicenseCode, LicenseFile, packed, text_digest
from licraft.core.outcomes import Code, Effect, Outcome
from licraft.core.state import PoolState
from licraft.errors import LicenseError, NotExecuted, OutcomeUnknown, ProposalError
from licraft.replication.engine import MAX_COMMAND_BYTES
from licraft.server.asker import ASKER, Asker, audited
from licraft.server.expiry import Expiry
from licraft.server.license_copy import previous_of, read_text, replace_text
from licraft.server.pool import ReplicatedPool
from licraft.server.proposer import Proposer
from licraft.vendor.codes import read_code
from licraft.vendor.keys import VendorPublicKey
from licraft.vendor.license_file import parse_license_file, read_license_file, write_license_file

log = logging.getLogger(__name__)

_TRIES = 8
_RETRY_S = 1.0
_COPY_RETRY_S = 10.0
_ROOM_BYTES = 64 * 1024  # For the other commands of an entry.

Text = str | OSError | UnicodeDecodeError
"""What a file holds, or why it cannot be read."""

Pairs = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A license file of this server that the pool did not take, since it has its number."""

    source: Path
    sequence: int
    text: str


class LicenseKeeper:
    """Installs license files and codes, and keeps this server's copy of the installed file."""

    def __init__(
        self,
        server: str,
        pool: ReplicatedPool,
        proposer: Proposer,
        keys: Sequence[VendorPublicKey],
        copy: Path,
        given: Path | None,
        expiry_grace_s: float = 0.0,
    ) -> None:
        """`copy` is the file in the data directory, `given` the configured license file."""
        self._server = server
        self._pool = pool
        self._proposer = proposer
        self._keys = keys
        self._copy = copy
        self._given = given
        self.expiry = Expiry(pool, expiry_grace_s)
        # Read before the pool's file takes its place: it may be newer.
        self._found: Text | None = read_text(copy)
        self._acts = False
        self._due = False
        self._looking: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        # One at a time: two files in one entry could be more than an entry may have.
        self._installing = asyncio.Lock()
        self._proposed: asyncio.Future[Outcome] | None = None
        self._behind = False
        # What the keys say of the installed codes, and of those of the last file read here.
        self._verdicts: dict[str, bool | None] = {}
        self._verified: dict[str, bool | None] = {}
        self._distrusted: frozenset[str] = frozenset()
        self._notes: dict[str, str] = {}
        self.refused: Refused | None = None

    @property
    def state(self) -> PoolState:
        """The replicated state, to be read."""
        return self._pool.state

    @property
    def trouble(self) -> list[str]:
        """What an administrator should look at, one line each."""
        return list(self._notes.values())

    def trusts(self, feature: str) -> bool:
        """Whether this server's own vendor keys verify the codes of a feature."""
        return feature not in self._distrusted

    # -- following the pool ---------------------------------------------------------------

    def changed(self) -> None:
        """The pool has another file, or another day."""
        if self.state.license.sequence:
            self.expiry.changed()
            self._follow()
        if self.refused and self.refused.sequence < self.state.license.sequence:
            self.refused = None

    def tick(self, *, acts: bool) -> None:
        """Look at the own files when this server has come to act, and when that is due."""
        self._due = self._due or (acts and not self._acts)
        self._acts = acts
        if acts and self._due and self._looking is None:
            self._due = False
            self._looking = asyncio.get_running_loop().create_task(self._look())
            self._looking.add_done_callback(self._looked)

    def reread(self, keys: Sequence[VendorPublicKey] | None = None) -> None:
        """Look at the configured license file again, with these vendor keys from now on.

        While this server does not act that has to wait until it does.
        """
        if keys is not None:
            self._keys = keys
            self._verdicts, self._verified = {}, {}
        self._due = True
        if self.state.license.sequence:
            self._follow()

    # -- installing -----------------------------------------------------------------------

    async def install(self, text: str) -> int:
        """Verify a file and commit it; returns its sequence number.

        Raises LicenseError with the contract's code (invalid_license, stale_sequence),
        and NotExecuted or OutcomeUnknown when the pool could not commit.
        """
        keys = self._keys
        file = await asyncio.to_thread(read_license_file, text, keys, self.state.pool)
        if keys is self._keys:
            self._verified = dict.fromkeys((code.code for code in file.codes), True)
        async with self._installing:
            outcome = await self._commit(InstallLicense(packed(file)))
        return _sequence(file, outcome)

    async def add_code(self, text: str, distribution: Pairs | None, threshold: float | None) -> int:
        """Add one code to the pool's file and commit that; returns the file's sequence number.

        A code that the file has already changes nothing. Raises as `install` does.
        """
        code = replace(self._new_code(text), distribution=distribution, threshold=threshold)
        async with self._installing:
            for _ in range(_TRIES):
                base = self.state.license
                known = next((c for c in base.codes if c.id == code.id), None)
                if known is not None and known.code == code.code:
                    return base.sequence
                if known is not None:
                    raise LicenseError(
                        f"another code has the id {code.id} already ({known.count} of "
                        f"{known.feature}): ask the vendor for a code with an id of its own"
                    )
                file = await asyncio.to_thread(_with_code, base, code, self.state.pool)
                outcome = await self._commit(InstallLicense(packed(file), base.sequence))
                if outcome.effect is not Effect.NONE:
                    return _sequence(file, outcome)
        raise NotExecuted(f"the license file was replaced {_TRIES} times at the same moment")

    def _new_code(self, text: str) -> LicenseCode:
        """The code that `text` is, if it can ever grant anything here."""
        state = self.state
        code = read_code(text, self._keys)
        what = f"the code for {code.count} of {code.feature}, id {code.id},"
        match code.status(state.pool, state.pool_day, state.pool_key):
            case CodeStatus.BAD_SIGNATURE:
                raise LicenseError(
                    f"{what} is not signed by a vendor that {self._server} trusts. Was it changed, "
                    "or is its vendor's key missing in `vendor_keys`?"
                )
            case CodeStatus.OTHER_POOL if code.pool in (None, state.pool):
                raise LicenseError(
                    f"{what} is bound to the key of another pool: ask the vendor for one for what "
                    "`licraft pool request` prints"
                )
            case CodeStatus.OTHER_POOL:
                raise LicenseError(
                    f"{what} is bound to the pool `{code.pool}`; this pool is `{state.pool}`: ask "
                    "the vendor for a code for this pool"
                )
            case CodeStatus.EXPIRED:
                raise LicenseError(
                    f"{what} expired on {code.expires}: ask the vendor for a new one"
                )
        return code

    async def _commit(self, command: InstallLicense) -> Outcome:
        proposed = audited(command)
        entry = Entry(self._server, 0, 0, (proposed,))
        size = len(await asyncio.to_thread(encode_entry, entry, self.state.version))
        if size > MAX_COMMAND_BYTES - _ROOM_BYTES:
            raise LicenseError(
                f"the license file is too large to be replicated ({size} bytes as a command, "
                f"at most {MAX_COMMAND_BYTES - _ROOM_BYTES}): have the vendor merge its codes"
            )
        if self._proposed is not None:  # Nobody waits for it any more, but it may yet come.
            await asyncio.wait([self._proposed])
        self._proposed = self._proposer.submit(proposed)
        return await asyncio.shield(self._proposed)

    # -- this server's own files ------------------------------------------------------------

    async def _look(self) -> None:
        """Compare the files of this server with the pool's, and say what contradicts it."""
        refused = None
        for source in (self._given, self._copy):
            if source is None:
                continue
            text: Text | None
            if source == self._given:
                text = await asyncio.to_thread(read_text, source)
            else:
                text, self._found = self._found, None
            self._notes.pop(str(source), None)
            # Whoever put the file there changes the pool by it. (This task is the look's own.)
            ASKER.set(Asker(f"whoever wrote {source}", self._server))
            try:
                contradicts = await self._compare(source, text)
                refused = contradicts if source == self._given else refused
            except LicenseError as fault:
                self._note(str(source), f"license file {source} was not installed: {fault}")
            except (NotExecuted, OutcomeUnknown) as fault:
                log.warning("%s: not installed yet: %s", source, fault)
                self._due = True
                if source == self._copy:
                    self._found = text
        refused = refused or await self._replaced()
        if refused is not None and refused != self.refused:
            log.error(
                "%s: the pool has another license file of the same number %d, which stays: "
                "`licraft license diff` shows how they differ",
                refused.source,
                refused.sequence,
            )
        self.refused = refused
        await self._report(refused)
        if self._due:
            await asyncio.sleep(_RETRY_S)

    async def _compare(self, source: Path, text: Text | None) -> Refused | None:
        """Offer a file if it is newer than the pool's; it is returned if it contradicts it."""
        if text is None or isinstance(text, FileNotFoundError):
            if source == self._given:
                log.info("%s: no license file there yet", source)
            return None
        if not isinstance(text, str):
            self._note(str(source), f"license file {source} cannot be read: {text}")
            return None
        file = await asyncio.to_thread(parse_license_file, text, self._keys)
        if file.sequence > self.state.license.sequence:
            try:
                sequence = await self.install(text)
            except LicenseError as fault:
                if fault.code != Code.STALE_SEQUENCE:
                    raise
            else:
                log.info("%s: sequence %d is the pool's license now", source, sequence)
        pools = self.state.license
        if file.sequence < pools.sequence:
            log.info(
                "%s: sequence %d is older than the pool's %d, which stays",
                source,
                file.sequence,
                pools.sequence,
            )
        return self._contradiction(source, file)

    async def _replaced(self) -> Refused | None:
        """The file in this server's data that the pool's took, or takes, the place of.

        One of the pool's own number contradicts it, until the pool has a newer one or
        somebody takes it away.
        """
        for source in (self._copy, previous_of(self._copy)):
            text = await asyncio.to_thread(read_text, source)
            if not isinstance(text, str) or text == self.state.license.text:
                continue
            try:
                file = await asyncio.to_thread(parse_license_file, text, ())
            except LicenseError:
                continue
            if (found := self._contradiction(source, file)) is not None:
                return found
        return None

    def _contradiction(self, source: Path, file: LicenseFile) -> Refused | None:
        pools = self.state.license
        if file.sequence != pools.sequence or file.says_the_same(pools):
            return None
        return Refused(source, file.sequence, file.text)

    async def _report(self, refused: Refused | None) -> None:
        """Let every server know whether a file of this one contradicts the pool's."""
        digest = text_digest(refused.text) if refused else ""
        me = self.state.servers.get(self._server)
        if me is None or me.license_conflict == digest:
            return
        sequence = refused.sequence if refused else 0
        try:
            await self._proposer.submit(LicenseConflict(self._server, sequence, digest))
        except ProposalError as fault:
            log.warning("the state of the license file was not told: %s", fault)
            self._due = True

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            log.error("looking at the license files failed", exc_info=task.exception())

    # -- this server's copy of the pool's file ----------------------------------------------

    def _follow(self) -> None:
        """Copy the pool's file, one file after the other: the last one is the one to stay."""
        self._behind = True
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._catch_up())
            self._following.add_done_callback(self._followed)

    async def _catch_up(self) -> None:
        while self._behind:
            self._behind = False
            installed = self.state.license
            try:
                await asyncio.to_thread(replace_text, self._copy, installed.text)
                self._notes.pop("copy", None)
            except OSError as fault:
                why = fault.strerror or str(fault)
                self._note("copy", f"{self._copy}: the license copy cannot be written: {why}")
                self._behind = True
            await self._judge(installed)
            if self._behind and "copy" in self._notes:
                await asyncio.sleep(_COPY_RETRY_S)

    async def _judge(self, installed: LicenseFile) -> None:
        """Verify the codes of the pool's file with this server's own keys, each once."""
        keys, known = self._keys, self._verified | self._verdicts
        new = [code.code for code in installed.codes if code.code not in known]
        verdicts = await asyncio.to_thread(_verdicts, new, keys) if new else {}
        if keys is not self._keys:
            self._behind = True
            return
        self._verdicts = {c.code: verdicts.get(c.code, known.get(c.code)) for c in installed.codes}
        distrusted = {code.feature for code in installed.codes if not self._verdicts[code.code]}
        self._notes.pop("keys", None)
        self._distrusted = frozenset(distrusted)
        if distrusted:
            names = sorted(distrusted)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            self._note(
                "keys",
                f"{', '.join(names[:5])}{more}: {self._server}'s vendor_keys do not verify the "
                "license codes, so it grants none; give it the vendor's public key and SIGHUP",
            )

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._following = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the copy of the license failed", exc_info=task.exception())

    def _note(self, about: str, text: str) -> None:
        if self._notes.get(about) != text:
            log.error("%s", text)
        self._notes[about] = text


def pairs_of(distribution: str | Mapping[str, int] | None, servers: Container[str]) -> Pairs | None:
    """Seats by server, from text or a map; raises ValueError, also for other servers' names."""
    if distribution is None:
        return None
    if isinstance(distribution, str):
        pairs = parse_distribution(distribution)
    else:
        pairs = tuple(distribution.items())
    unknown = [name for name, _ in pairs if name not in servers]
    if unknown:
        raise ValueError(f"no server {unknown[0]} in this pool")
    return pairs


def _sequence(file: LicenseFile, outcome: Outcome) -> int:
    """The number of a file that was committed; raises why it was not installed."""
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


def _verdicts(codes: Iterable[str], keys: Sequence[VendorPublicKey]) -> dict[str, bool | None]:
    """Whether a vendor of these keys signed each code."""
    found: dict[str, bool | None] = {}
    for text in codes:
        try:
            found[text] = read_code(text, keys).trusted
        except LicenseError:  # Another release of licraft wrote it.
            found[text] = False
    return found


def _with_code(base: LicenseFile, code: LicenseCode, pool: str) -> LicenseFile:
    """The file after `base`, with one code more; raises LicenseError if it cannot be."""
    named = base.pool if base.sequence else pool
    codes = (*base.codes, code)
    text = write_license_file(named, base.sequence + 1, codes)
    # Without keys: the others were verified when they came, perhaps by other servers' keys.
    parse_license_file(text, ())
    return LicenseFile(named, base.sequence + 1, text, codes)
