"""The Raft messages between servers: PySyncObj's dictionaries <-> bounded, typed bytes.

May import msgspec and `engine`'s limits. Nothing is pickled: a message is one of the
types below, every field has a type and a bound, and anything else is refused, so that a
peer can make this server neither run code nor hold more memory than one frame.

Beyond PySyncObj's own fields a message carries `seq` (which append_entries is answered,
S5), the `term` of an acknowledgement (S6), the identity and offset of a snapshot piece
(S8), and the two messages of the pre-vote (L4; Ongaro's thesis, section 9.6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from licraft.replication.engine import MAX_COMMAND_BYTES

MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 200_000
MAX_PIECE_BYTES = 1024 * 1024
BATCH_BYTES = MAX_COMMAND_BYTES + 64 * 1024
"""Soft size of one append_entries: above any command, so PySyncObj never splits one."""

REGULAR = 0
NO_OP = 1
CHANGE = 4
"""A state machine command that changes the members; 2 and 3 are PySyncObj's own, pickled."""

_COMMAND_TYPES = (REGULAR, CHANGE)
_ENTRY_TYPES = (REGULAR, NO_OP, CHANGE)

Message: TypeAlias = dict[str, Any]
Entry: TypeAlias = tuple[bytes, int, int]
"""A log entry as PySyncObj holds it: type byte and command, index, term."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Command = Annotated[bytes, Meta(min_length=1, max_length=MAX_COMMAND_BYTES + 1)]
RawEntry = tuple[Command, Count, Count]
SnapshotId: TypeAlias = tuple[int, int]
"""Index and term of the last entry that a snapshot covers."""


class MessageError(Exception):
    """A message is not one of the known types, or breaks a bound or a rule of its type."""


class Piece(NamedTuple):
    """A part of a snapshot file; PySyncObj reads only the element at 2."""

    data: bytes
    first: bool
    last: bool
    id: SnapshotId
    offset: int
    total: int


class _Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of the encoded forms: arrays whose first element is the type's number."""


class _AppendEntries(_Body, tag=1, frozen=True):
    term: Count
    seq: Count
    commit_index: Count
    prev_index: Count
    prev_term: Count
    entries: Annotated[list[RawEntry], Meta(max_length=MAX_ENTRIES)]


class _SnapshotPiece(_Body, tag=2, frozen=True):
    term: Count
    seq: Count
    commit_index: Count
    index: Count
    index_term: Count
    offset: Count
    total: Count
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_PIECE_BYTES)]


class _Heartbeat(_Body, tag=3, frozen=True):
    term: Count
    seq: Count
    commit_index: Count


class _NextIndex(_Body, tag=4, frozen=True):
    term: Count
    seq: Count
    next_index: Count
    reset: bool
    success: bool


class _RequestVote(_Body, tag=5, frozen=True):
    term: Count
    last_log_index: Count
    last_log_term: Count


class _ResponseVote(_Body, tag=6, frozen=True):
    term: Count


class _PreVote(_Body, tag=7, frozen=True):
    term: Count
    round: Count
    last_log_index: Count
    last_log_term: Count


class _PreVoteAnswer(_Body, tag=8, frozen=True):
    term: Count
    round: Count
    granted: bool


class _ApplyCommand(_Body, tag=9, frozen=True):
    command: Command
    request_id: Count


class _ApplyAccepted(_Body, tag=10, frozen=True):
    request_id: Count
    log_index: Count
    log_term: Count


class _ApplyRefused(_Body, tag=11, frozen=True):
    request_id: Count
    error: Annotated[int, Meta(ge=1, le=255)]


class _TimeoutNow(_Body, tag=12, frozen=True):
    term: Count


_Any: TypeAlias = (
    _AppendEntries
    | _SnapshotPiece
    | _Heartbeat
    | _NextIndex
    | _RequestVote
    | _ResponseVote
    | _PreVote
    | _PreVoteAnswer
    | _ApplyCommand
    | _ApplyAccepted
    | _ApplyRefused
    | _TimeoutNow
)
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[_Any] = msgspec.msgpack.Decoder(_Any)


def encode(message: Mapping[str, Any]) -> bytes:
    """The bytes of a message; raises MessageError for one that no server may send."""
    build = _BUILDERS.get(message["type"])
    if build is None:
        raise MessageError(f"no encoding for a {message['type']!r} message")
    try:
        return _encoder.encode(build(message))
    except (KeyError, TypeError) as fault:
        raise MessageError(f"{message['type']} message is incomplete: {fault!r}") from fault


def decode(body: bytes) -> Message:
    """The message in `body`; raises MessageError, and nothing else, for anything malformed."""
    try:
        decoded = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as fault:
        raise MessageError(f"malformed message of {len(body)} bytes: {fault}") from fault
    return _READERS[type(decoded)](decoded)


def _build_append_entries(message: Mapping[str, Any]) -> _Body:
    """One of the three kinds that PySyncObj calls append_entries."""
    if "transmission" in message:
        raise MessageError("an entry in pieces is never sent: commands are smaller than a batch")
    if "prevLogIdx" in message:
        return _AppendEntries(
            message["term"],
            message["seq"],
            message["commit_index"],
            message["prevLogIdx"],
            message["prevLogTerm"],
            message["entries"],
        )
    piece: Piece | None = message["serialized"]
    if piece is None:
        return _Heartbeat(message["term"], message["seq"], message["commit_index"])
    return _SnapshotPiece(
        message["term"],
        message["seq"],
        message["commit_index"],
        *piece.id,
        piece.offset,
        piece.total,
        piece.data,
    )


def _build_apply_response(message: Mapping[str, Any]) -> _Body:
    """Where the leader put a command, or why it did not."""
    error = message.get("error")
    if error is not None:
        return _ApplyRefused(message["request_id"], error)
    return _ApplyAccepted(message["request_id"], message["log_idx"], message["log_term"])


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], _Body]] = {
    "append_entries": _build_append_entries,
    "next_node_idx": lambda m: _NextIndex(
        m["term"], m["seq"], m["next_node_idx"], m["reset"], m["success"]
    ),
    "request_vote": lambda m: _RequestVote(m["term"], m["last_log_index"], m["last_log_term"]),
    "response_vote": lambda m: _ResponseVote(m["term"]),
    "pre_vote": lambda m: _PreVote(m["term"], m["round"], m["last_log_index"], m["last_log_term"]),
    "pre_vote_answer": lambda m: _PreVoteAnswer(m["term"], m["round"], m["granted"]),
    "apply_command": lambda m: _ApplyCommand(m["command"], m["request_id"]),
    "apply_command_response": _build_apply_response,
    "timeout_now": lambda m: _TimeoutNow(m["term"]),
}


def _read_append_entries(body: _AppendEntries) -> Message:
    """Entries that follow `prev_index` without a gap, in terms that never fall (Raft, 5.3)."""
    index, term = body.prev_index, body.prev_term
    for command, entry_index, entry_term in body.entries:
        if entry_index != index + 1 or not term <= entry_term <= body.term:
            raise MessageError(f"append_entries with entry {entry_index} after {index}")
        if command[0] not in _ENTRY_TYPES:
            raise MessageError(f"entry {entry_index} is of the refused type {command[0]}")
        index, term = entry_index, entry_term
    return {
        "type": "append_entries",
        "term": body.term,
        "seq": body.seq,
        "commit_index": body.commit_index,
        "prevLogIdx": body.prev_index,
        "prevLogTerm": body.prev_term,
        "entries": body.entries,
    }


def _read_snapshot_piece(body: _SnapshotPiece) -> Message:
    """A piece that lies inside its snapshot."""
    end = body.offset + len(body.data)
    if end > body.total:
        raise MessageError(f"snapshot piece ends at {end} of {body.total} bytes")
    piece = Piece(
        body.data,
        body.offset == 0,
        end == body.total,
        (body.index, body.index_term),
        body.offset,
        body.total,
    )
    return {
        "type": "append_entries",
        "term": body.term,
        "seq": body.seq,
        "commit_index": body.commit_index,
        "serialized": piece,
    }


def _read_apply_command(body: _ApplyCommand) -> Message:
    """A forwarded command: only state machine commands are taken from a peer."""
    if body.command[0] not in _COMMAND_TYPES:
        raise MessageError(f"a forwarded command is of the refused type {body.command[0]}")
    return {
        "type": "apply_command",
        "command": body.command,
        "request_id": body.request_id,
    }


_READERS: dict[type[_Body], Callable[[Any], Message]] = {
    _AppendEntries: _read_append_entries,
    _SnapshotPiece: _read_snapshot_piece,
    _Heartbeat: lambda b: {
        "type": "append_entries",
        "term": b.term,
        "seq": b.seq,
        "commit_index": b.commit_index,
        "serialized": None,
    },
    _NextIndex: lambda b: {
        "type": "next_node_idx",
        "term": b.term,
        "seq": b.seq,
        "next_node_idx": b.next_index,
        "reset": b.reset,
        "success": b.success,
    },
    _RequestVote: lambda b: {
        "type": "request_vote",
        "term": b.term,
        "last_log_index": b.last_log_index,
        "last_log_term": b.last_log_term,
    },
    _ResponseVote: lambda b: {"type": "response_vote", "term": b.term},
    _PreVote: lambda b: {
        "type": "pre_vote",
        "term": b.term,
        "round": b.round,
        "last_log_index": b.last_log_index,
        "last_log_term": b.last_log_term,
    },
    _PreVoteAnswer: lambda b: {
        "type": "pre_vote_answer",
        "term": b.term,
        "round": b.round,
        "granted": b.granted,
    },
    _ApplyCommand: _read_apply_command,
    _ApplyAccepted: lambda b: {
        "type": "apply_command_response",
        "request_id": b.request_id,
        "log_idx": b.log_index,
        "log_term": b.log_term,
    },
    _ApplyRefused: lambda b: {
        "type": "apply_command_response",
        "request_id": b.request_id,
        "error": b.error,
    },
    _TimeoutNow: lambda b: {"type": "timeout_now", "term": b.term},
}
