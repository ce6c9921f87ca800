"""Every exception that licraft raises, as one tree.

May import nothing of licraft. A *denial* (no seats, unknown feature) is a value
inside the server and becomes `Denied` only in the client module; an operating
error is one of the exceptions below; a broken invariant stops the process.

    LicraftError
    |-- SettingsError          the configuration is not usable (exit status 2)
    |-- LicenseError           a license code or file is not usable (exit status 4)
    |-- DataError              a file of the data directory is damaged or not readable
    |   `-- DiskError          ... because the disk refused or failed (exit status 70)
    |-- InvariantBroken        the state contradicts itself: the process must stop (70)
    |-- ProposalError          a command was handed to the engine ...
    |   |-- NotExecuted        ... and will certainly never take effect: safe to repeat
    |   |   `-- Overloaded     ... for too much waits already
    |   `-- OutcomeUnknown     ... and may or may not: repeat only with the same serial
    |-- PeerUnreachable        another server of the pool did not answer
    `-- ClientError            raised by `licraft.client`
        |-- Denied             the pool answered, and said no (exit status 1)
        |   |-- NoSeatsAvailable
        |   |-- UnknownFeature
        |   |-- NotLicensed
        |   `-- LimitReached
        |-- NotProved          a server granted a seat and proved no licensed pool: given back
        |-- NotAuthorized      the token is missing or wrong (exit status 5)
        |-- InvalidRequest     the request was malformed (exit status 2)
        |-- PoolUnavailable    no server could answer (exit status 3)
        `-- SeatLost           the seat is no longer held
"""

from __future__ import annotations


class LicraftError(Exception):
    """Base of everything licraft raises on purpose."""


class SettingsError(LicraftError):
    """The configuration is not usable; `problems` has one line for each fault."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))


class LicenseError(LicraftError):
    """A license code or license file cannot be used; `code` is the contract's code."""

    def __init__(self, detail: str, code: str = "invalid_license") -> None:
        self.code = code
        super().__init__(detail)


class DataError(LicraftError):
    """A file of the data directory is damaged, locked or not readable."""


class DiskError(DataError):
    """The disk refused or failed; when it is well again, starting the server again may help."""


class InvariantBroken(LicraftError):
    """The replicated state contradicts itself; the process must stop before it answers."""


class ProposalError(LicraftError):
    """A command was handed to the engine and its success was not seen."""


class NotExecuted(ProposalError):
    """The command will certainly never take effect; it is safe to propose it again."""


class Overloaded(NotExecuted):
    """It was not even proposed: too much waits already. Slow down."""


class OutcomeUnknown(ProposalError):
    """The command may have taken effect; propose it again only with the same serial."""


class PeerUnreachable(LicraftError):
    """Another server of the pool did not answer in time."""


class ClientError(LicraftError):
    """Base of what `licraft.client` raises; `code` is the problem code, if there is one."""

    def __init__(self, detail: str, code: str = "") -> None:
        self.code = code
        super().__init__(detail)


class Denied(ClientError):
    """The pool answered, and the answer is no."""


class NoSeatsAvailable(Denied):
    """Every seat of the feature is in use."""


class UnknownFeature(Denied):
    """The pool has no license for a feature of this name."""


class NotLicensed(Denied):
    """The feature's license is expired, not yet valid, not trusted or for another version."""


class LimitReached(Denied):
    """A limit or an exclusion of the pool's policy forbids the request."""


class NotProved(ClientError):
    """A server granted a seat and did not prove that its pool is licensed; it was given back."""


class NotAuthorized(ClientError):
    """The access token is missing or wrong."""


class InvalidRequest(ClientError):
    """The request was malformed; the message names the field."""


class PoolUnavailable(ClientError):
    """No server of the pool could answer."""


class SeatLost(ClientError):
    """The seat is no longer held."""
