"""What is asked of one sidecar through its local admin socket, and its answers: one JSON line each. Pure.

It is a Unix socket without a file, in the sidecar's network namespace (unix(7), abstract names), named after the
instance. Who may ask is decided by the kernel's word on the other process (``sidecar/administration/local_socket.py``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from shared.model.wire.messages import DirectoryEntry, LiveConnection

SOCKET_PREFIX: Final = "touchmark/sidecar/"  # After the NUL that makes a name abstract.
MAX_QUESTION_BYTES: Final = 4096
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_LISTED: Final = 10_000


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    pass


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DumpQuestion(_Message, frozen=True, tag="dump"):
    """Say everything; of long lists at most ``limit`` entries."""

    limit: int = 1000


class ConnectionsQuestion(_Message, frozen=True, tag="connections"):
    """List the live connections, at most ``limit``."""

    limit: int = 1000


class LevelQuestion(_Message, frozen=True, tag="log_level"):
    """Say the least level of events that is written; set it first where one is given."""

    level: str = ""


class NamespaceInForce(_Value, frozen=True):
    """One namespace's policy that this sidecar has."""

    namespace: str
    version: int
    mode: str
    rules: int
    approvals: int


class HeldCredential(_Value, frozen=True):
    """One certificate; never its key. ``not_after`` in seconds since the epoch."""

    identity: str
    not_after: float
    issuer: str


class Bound(_Value, frozen=True):
    """How much of a bound is used."""

    name: str
    used: int
    limit: int


class Dump(_Message, frozen=True, tag="dump_answer"):
    """The sidecar's state. Before it has joined, most of it is empty.

    Attributes:
        stage: ``joining``, ``serving`` or ``draining``.
        ca_fault: why there is no stream to the CA; empty while there is one.
        credentials: the sidecar's own first.
        directory: known addresses, at most the limit; ``directory_size`` of them in all.
        renewal_kept_in: where its renewal key is: a directory, or ``memory``; empty: the CA has none of it.
        renewal_grace_s: for so long after its certificate's end the key counts, as the CA said last.
    """

    instance: str
    version: str
    pid: int
    stage: str
    log_level: str
    ca_connected: bool
    ca_version: str
    ca_fault: str
    workload: str = ""
    trust_domain: str = ""
    bundle_sequence: int = 0
    connections: int = 0
    idle_tunnels: int = 0
    records_waiting: int = 0
    records_lost: int = 0
    bounds: tuple[Bound, ...] = ()
    namespaces: tuple[NamespaceInForce, ...] = ()
    credentials: tuple[HeldCredential, ...] = ()
    directory: tuple[DirectoryEntry, ...] = ()
    directory_size: int = 0
    renewal_kept_in: str = ""
    renewal_grace_s: int = 0


class SidecarConnections(_Message, frozen=True, tag="connections_answer"):
    """The live connections; ``truncated`` when there were more than the limit."""

    instance: str
    connections: tuple[LiveConnection, ...]
    truncated: bool = False


class Level(_Message, frozen=True, tag="log_level_answer"):
    """The least level of events that is written now."""

    instance: str
    level: str


class Failure(_Message, frozen=True, tag="failure"):
    """The question can't be answered."""

    message: str
    hint: str = ""


Question = DumpQuestion | ConnectionsQuestion | LevelQuestion
Answer = Dump | SidecarConnections | Level | Failure
_questions: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question, strict=True)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer, strict=True)
_encoder = msgspec.json.Encoder()


def encode_line(message: Question | Answer) -> bytes:
    """Write a question or an answer."""
    return _encoder.encode(message) + b"\n"


def decode_question(line: bytes) -> Question:
    """Read a question.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _questions.decode(line)


def decode_answer(line: bytes) -> Answer:
    """Read an answer.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _answers.decode(line)
