"""Reason codes: why a connection was allowed, marked or refused. One enumeration, with cause and fix.

``make docs`` generates ``docs/reference/reasons.md`` from this table. A code is never renamed; a code that nothing
produces any more is removed with its page entry; ``test_a_reason_is_complete`` says what a new one needs. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """The stable code of one reason."""

    # Why a connection is allowed.
    ALLOW_RULE = "allow_rule"
    SAME_GROUP = "same_group"

    # Refused by policy (in permissive mode all but ``deny_rule`` are marks, not refusals).
    DENY_RULE = "deny_rule"
    NO_RULE = "no_rule"
    PROGRAM_NOT_APPROVED = "program_not_approved"
    LISTENER_NOT_APPROVED = "listener_not_approved"
    PEER_UNIDENTIFIED = "peer_unidentified"
    EGRESS_NOT_ALLOWED = "egress_not_allowed"
    HOST_NOT_RESOLVED = "host_not_resolved"
    FOREIGN_NOT_ALLOWED = "foreign_not_allowed"
    MTLS_UNAVAILABLE = "mtls_unavailable"

    # Why a program couldn't be attested.
    NO_OWNER = "no_owner"
    PROCESS_VANISHED = "process_vanished"
    SENDER_GONE = "sender_gone"
    PROCESS_TRACED = "process_traced"
    EXECUTABLE_UNREADABLE = "executable_unreadable"
    EXECUTABLE_TOO_LARGE = "executable_too_large"
    EXECUTABLE_CHANGED = "executable_changed"
    EXECUTABLE_FORGED = "executable_forged"
    USER_NAMESPACE_DIFFERS = "user_namespace_differs"
    PROCESS_ORIGIN = "process_origin"
    SOCKET_NOT_OWN = "socket_not_own"
    SOCKET_SHARED = "socket_shared"
    PROGRAM_CHANGED = "program_changed"
    HOLDERS_UNKNOWN = "holders_unknown"
    CODE_NOT_APPROVED = "code_not_approved"
    SOCKET_AMBIGUOUS = "socket_ambiguous"
    NO_LISTENER = "no_listener"
    LISTENERS_DIFFER = "listeners_differ"

    # Why an identity couldn't be had or doesn't hold.
    CA_UNAVAILABLE = "ca_unavailable"
    PEER_UNTRUSTED = "peer_untrusted"
    PEER_EXPIRED = "peer_expired"
    PEER_DISTRUSTED = "peer_distrusted"
    PEER_WORKLOAD_MISMATCH = "peer_workload_mismatch"
    TRUST_DOMAIN_UNKNOWN = "trust_domain_unknown"

    # What went wrong on the way.
    DESTINATION_NOT_SERVED = "destination_not_served"
    DIRECT_CONNECTION = "direct_connection"
    DESTINATION_UNREACHABLE = "destination_unreachable"
    APPLICATION_UNREACHABLE = "application_unreachable"
    PROTOCOL_ERROR = "protocol_error"
    HANDSHAKE_FAILED = "handshake_failed"
    MTLS_REQUIRED = "mtls_required"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A reason explained for people: one sentence for the cause, one for the fix."""

    cause: str
    fix: str


EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.ALLOW_RULE: Explanation(
        cause="An allow rule matches this connection; the record names it.", fix="Nothing to fix."
    ),
    Reason.SAME_GROUP: Explanation(
        cause="Both programs are approved and their workloads belong to the same mesh group.", fix="Nothing to fix."
    ),
    Reason.DENY_RULE: Explanation(
        cause="A deny rule matches this connection; the record names it. Deny rules apply in every mode.",
        fix="If the connection is wanted, change or remove the rule with `touchmark policy apply`.",
    ),
    Reason.NO_RULE: Explanation(
        cause="Both programs are approved, but they are in different mesh groups and no allow rule matches.",
        fix="Add an allow rule to the destination's namespace with `touchmark policy apply`.",
    ),
    Reason.PROGRAM_NOT_APPROVED: Explanation(
        cause="The program that opened the connection is not approved for its workload.",
        fix=(
            "Review its digest in the record, then run `touchmark program approve WORKLOAD sha256:DIGEST`. Where the"
            " destination's record has no digest, the source's record of the same moment says what is missing."
        ),
    ),
    Reason.LISTENER_NOT_APPROVED: Explanation(
        cause=(
            "The program that listens on the destination port is not approved for its workload."
            " If the record has no source, the pod's readiness is withheld because of it."
        ),
        fix="Review its digest in the record, then run `touchmark program approve WORKLOAD sha256:DIGEST`.",
    ),
    Reason.PEER_UNIDENTIFIED: Explanation(
        cause="The peer presented no program's certificate, and no allow rule for `unidentified` peers matches.",
        fix="Add the peer to the mesh, or allow its addresses with a rule for `unidentified` peers.",
    ),
    Reason.EGRESS_NOT_ALLOWED: Explanation(
        cause=(
            "The destination is outside the mesh and no egress rule of the source's namespace names it."
            " A cloud's metadata address (169.254.169.254, fd00:ec2::254, fd20:ce::254) isn't"
            " named by a network as wide as 0.0.0.0/0."
        ),
        fix=(
            "Add an egress rule with the destination's CIDR, or its host name, and port to the source's namespace; for"
            " a metadata address, the address itself, such as 169.254.169.254/32."
        ),
    ),
    Reason.HOST_NOT_RESOLVED: Explanation(
        cause=(
            "An egress rule names hosts of which the sidecar couldn't learn the addresses, so that this destination may"
            " be one of them; the detail says which and why."
        ),
        fix=(
            "Check the nameservers of the sidecar's /etc/resolv.conf (or `dns.nameservers`) and the name in the rule."
            " Where names can't be resolved, allow the addresses by `cidrs`."
        ),
    ),
    Reason.FOREIGN_NOT_ALLOWED: Explanation(
        cause="The other end belongs to another trust domain, and no allow rule names its SPIFFE ID with `spiffeID`.",
        fix="Add a rule with that `spiffeID`: for ingress in the destination's namespace, for egress in the source's.",
    ),
    Reason.MTLS_UNAVAILABLE: Explanation(
        cause="The destination is in the mesh, but no tunnel to its sidecar could be opened.",
        fix="Check that its sidecar runs and that nothing blocks the tunnel port: `touchmark doctor`.",
    ),
    Reason.NO_OWNER: Explanation(
        cause="No process that this sidecar can see holds the socket.",
        fix="The process may have closed it already; otherwise let the sidecar see the application's processes.",
    ),
    Reason.PROCESS_VANISHED: Explanation(
        cause="The process executed another program, or passed its socket on, during attestation.",
        fix="Don't call `exec` during `connect`.",
    ),
    Reason.SENDER_GONE: Explanation(
        cause="The client closed its socket, or exited, before the sidecar could look at it.",
        fix="Let the client wait for the server's answer or end (`nc -N`) instead of exiting right after it has sent. "
        "The next ones to the same port are looked at before their connection (`redirect.holdConnects: auto`), in a "
        "pod if it or its namespace has the annotation `touchmark.dev/hold-connects: auto`.",
    ),
    Reason.PROCESS_TRACED: Explanation(
        cause="A debugger is attached to the process, so its program proves nothing.", fix="Detach the debugger."
    ),
    Reason.EXECUTABLE_UNREADABLE: Explanation(
        cause="The process's executable can't be read.",
        fix="Give the sidecar the capabilities SYS_PTRACE and DAC_READ_SEARCH; see `touchmark doctor`.",
    ),
    Reason.EXECUTABLE_TOO_LARGE: Explanation(
        cause="The executable is larger than the sidecar's limit for hashing.",
        fix="Raise `attestation.maxExecutableBytes` in the sidecar's configuration.",
    ),
    Reason.EXECUTABLE_CHANGED: Explanation(
        cause="The executable changed while it was hashed.",
        fix="Replace executables by rename, not by writing to them.",
    ),
    Reason.EXECUTABLE_FORGED: Explanation(
        cause=(
            "The process's code isn't mapped from the file that it names as its executable, or that file is in a mount"
            " of another mount namespace."
        ),
        fix="Find out what runs in that process. Packers that replace the code in memory (UPX) look the same.",
    ),
    Reason.USER_NAMESPACE_DIFFERS: Explanation(
        cause="The process is in another user namespace than the sidecar, where it may name any executable as its own.",
        fix="Run it without a user namespace of its own (sandboxes, rootless containers, systemd's PrivateUsers).",
    ),
    Reason.PROCESS_ORIGIN: Explanation(
        cause=(
            "The namespace requires programs to descend from their container's first process, and this one comes from"
            " an exec session, or its parents have ended."
        ),
        fix="Start it from the container's own process, or remove `containerOrigin` from the MeshPolicy's `requires`.",
    ),
    Reason.SOCKET_NOT_OWN: Explanation(
        cause=(
            "The namespace requires programs to make their sockets themselves, and this one isn't close-on-exec: who"
            " started the program may have made it, and may still use it unseen. Or the program closed it before that"
            " could be looked at."
        ),
        fix="Have the program open it with SOCK_CLOEXEC, or remove `ownSockets` from the MeshPolicy's `requires`.",
    ),
    Reason.SOCKET_SHARED: Explanation(
        cause="A process of another program holds the same socket, or could receive it over a Unix socket.",
        fix="Close the descriptor in the other process (close-on-exec). That its program is approved doesn't help.",
    ),
    Reason.PROGRAM_CHANGED: Explanation(
        cause="The attested process executed another program while the connection lived.",
        fix="Let the new program open a connection of its own, or close the descriptor (close-on-exec).",
    ),
    Reason.HOLDERS_UNKNOWN: Explanation(
        cause=(
            "A process that may hold the same socket couldn't be looked at: there are too many, the sidecar may not"
            " inspect it, or it ended too soon."
        ),
        fix=(
            "Run the process that the detail names as another user, or give the sidecar the capabilities SYS_PTRACE and"
            " DAC_READ_SEARCH (as root it has them). At most a million open descriptors are searched."
        ),
    ),
    Reason.CODE_NOT_APPROVED: Explanation(
        cause="The approved program has loaded code (a library, a plugin, `LD_PRELOAD`) that isn't approved with it.",
        fix=(
            "Find out where the code that the detail names comes from. If it belongs there, `touchmark program"
            " update-code WORKLOAD --from-decisions` approves it."
        ),
    ),
    Reason.SOCKET_AMBIGUOUS: Explanation(
        cause="Two sockets, or two connections, have the same source and destination: who made which is unknown.",
        fix="Find out which program binds that source port, or its socket to a device; if none does, connect again.",
    ),
    Reason.NO_LISTENER: Explanation(
        cause="Nothing listens on the destination port.", fix="Start the server, or correct the port."
    ),
    Reason.LISTENERS_DIFFER: Explanation(
        cause="Sockets that listen on the port don't all run one program, or another one accepted.",
        fix="Stop the other listener (SO_REUSEPORT, or a wildcard beside a specific address).",
    ),
    Reason.CA_UNAVAILABLE: Explanation(
        cause="The CA didn't answer in time, and the sidecar holds no credential for this program, or doesn't know who "
        "is at the other end's address. Permissive mode goes on, marked.",
        fix="Check that the CA runs and is reachable: `touchmark ca status`.",
    ),
    Reason.PEER_UNTRUSTED: Explanation(
        cause="The peer's certificate doesn't chain to an authority in the trust bundle, or violates the profile.",
        fix="Let the peer join this CA; after the CA was restored, restart the sidecar with a new join token.",
    ),
    Reason.PEER_EXPIRED: Explanation(
        cause="The peer's certificate is not valid at this time.",
        fix="Compare the clocks of both machines; check that the peer's sidecar reaches the CA.",
    ),
    Reason.PEER_DISTRUSTED: Explanation(
        cause="The peer's certificate was issued by an authority that is distrusted.",
        fix="Nothing: its sidecar requests a new certificate as soon as it reaches the CA.",
    ),
    Reason.PEER_WORKLOAD_MISMATCH: Explanation(
        cause="The peer is a different workload from the one that the directory lists at that address.",
        fix="Nothing, if the address was just reassigned; otherwise find out what runs at that address.",
    ),
    Reason.TRUST_DOMAIN_UNKNOWN: Explanation(
        cause="The peer's certificate is of a trust domain whose roots this mesh doesn't have; the detail names it.",
        fix="If you trust it: `touchmark trust add DOMAIN FILE`.",
    ),
    Reason.DESTINATION_NOT_SERVED: Explanation(
        cause="The peer asked this sidecar for a destination that it doesn't serve.",
        fix="Sidecars never ask for this: find out what the peer in the record is.",
    ),
    Reason.DIRECT_CONNECTION: Explanation(
        cause="The connection went straight to the sidecar's capture port and has no original destination.",
        fix="Connect to the application's own address and port.",
    ),
    Reason.DESTINATION_UNREACHABLE: Explanation(
        cause="The destination, which is outside the mesh, refused the connection or didn't answer; or it is a "
        "Kubernetes Service without that port or without a ready endpoint: the detail says so.",
        fix="Check the destination: policy didn't refuse this connection. For a Service: `kubectl get endpointslices`.",
    ),
    Reason.APPLICATION_UNREACHABLE: Explanation(
        cause="The application behind the destination's sidecar refused the connection or didn't answer.",
        fix="Check the application: policy allowed this connection.",
    ),
    Reason.PROTOCOL_ERROR: Explanation(
        cause="The peer broke the tunnel's protocol, or refused with a code that this release doesn't know.",
        fix="Compare the versions of both sidecars: `touchmark version`.",
    ),
    Reason.HANDSHAKE_FAILED: Explanation(
        cause="The TLS handshake failed: wrong version, no client certificate, or a protocol other than the tunnel's.",
        fix="Speak TLS 1.3 with a certificate of this CA, or use an application port.",
    ),
    Reason.MTLS_REQUIRED: Explanation(
        cause="The port requires mutual TLS, and the client sent plaintext, presented no certificate or lacks TLS 1.3.",
        fix="Use TLS 1.3 with an X509-SVID in the client, or remove the port from the sidecar's mTLS ports.",
    ),
    Reason.DEADLINE_EXCEEDED: Explanation(
        cause="The peer didn't finish its handshake or request in time.", fix="Check the peer and the network."
    ),
    Reason.OVERLOADED: Explanation(
        cause="A limit of this sidecar was reached.",
        fix="Find out who opens so many connections, or raise the limit.",
    ),
    Reason.SHUTTING_DOWN: Explanation(
        cause="This sidecar was shutting down before it had decided on the connection.",
        fix="Nothing, if the pod or the sidecar was being stopped: the client connects again to another one.",
    ),
    Reason.INTERNAL_ERROR: Explanation(
        cause="A fault inside this sidecar, not of the peer's; the detail names it, and its log has the traceback.",
        fix="Report it with the sidecar's log and `touchmark version`; other connections aren't affected.",
    ),
}


class Remedy(StrEnum):
    """What changes it that connections are refused for a reason."""

    NONE = "none"
    PRINTED = "printed"
    CHOSEN = "chosen"
    OUTSIDE = "outside"


# As people read it, on the page.
REMEDIES_IN_WORDS: Final = {
    Remedy.NONE: "nothing is to be changed.",
    Remedy.PRINTED: "the command or the rule that `touchmark ready` prints.",
    Remedy.CHOSEN: "a command of Touchmark's, with what somebody has to judge, so that none is printed ready to run.",
    Remedy.OUTSIDE: "no command of Touchmark's: the program, machine, network or other end is to be changed.",
}

# Each reason that is printed or chosen has an end-to-end test marked ``fixes``, in which that command is run and the
# connection passes. Of the others none can be: what is wrong is no state that Touchmark keeps.
_BY_REMEDY: Final = {
    Remedy.NONE: (Reason.ALLOW_RULE, Reason.SAME_GROUP, Reason.PEER_DISTRUSTED, Reason.SHUTTING_DOWN),
    Remedy.PRINTED: (
        Reason.NO_RULE, Reason.PROGRAM_NOT_APPROVED, Reason.LISTENER_NOT_APPROVED, Reason.PEER_UNIDENTIFIED,
        Reason.EGRESS_NOT_ALLOWED, Reason.FOREIGN_NOT_ALLOWED,
    ),
    Remedy.CHOSEN: (
        Reason.DENY_RULE, Reason.HOST_NOT_RESOLVED, Reason.PROCESS_ORIGIN, Reason.SOCKET_NOT_OWN,
        Reason.CODE_NOT_APPROVED, Reason.TRUST_DOMAIN_UNKNOWN,
    ),
    Remedy.OUTSIDE: (
        Reason.MTLS_UNAVAILABLE, Reason.NO_OWNER, Reason.PROCESS_VANISHED, Reason.SENDER_GONE, Reason.PROCESS_TRACED,
        Reason.EXECUTABLE_UNREADABLE, Reason.EXECUTABLE_TOO_LARGE, Reason.EXECUTABLE_CHANGED, Reason.EXECUTABLE_FORGED,
        Reason.USER_NAMESPACE_DIFFERS, Reason.SOCKET_SHARED, Reason.PROGRAM_CHANGED, Reason.HOLDERS_UNKNOWN,
        Reason.SOCKET_AMBIGUOUS, Reason.NO_LISTENER, Reason.LISTENERS_DIFFER, Reason.CA_UNAVAILABLE,
        Reason.PEER_UNTRUSTED, Reason.PEER_EXPIRED, Reason.PEER_WORKLOAD_MISMATCH, Reason.DESTINATION_NOT_SERVED,
        Reason.DIRECT_CONNECTION, Reason.DESTINATION_UNREACHABLE, Reason.APPLICATION_UNREACHABLE,
        Reason.PROTOCOL_ERROR, Reason.HANDSHAKE_FAILED, Reason.MTLS_REQUIRED, Reason.DEADLINE_EXCEEDED,
        Reason.OVERLOADED, Reason.INTERNAL_ERROR,
    ),
}  # fmt: skip
REMEDIES: Final = {reason: remedy for remedy, reasons in _BY_REMEDY.items() for reason in reasons}

# No refusal: a peer that says one of them all the same wants to look harmless in the record.
ALLOWING: Final = frozenset({Reason.ALLOW_RULE, Reason.SAME_GROUP})

# What a namespace requires of its own programs' processes and sockets: refused in either mode.
REQUIRED: Final = frozenset({Reason.PROCESS_ORIGIN, Reason.SOCKET_NOT_OWN})

# Codes that release 0.1 doesn't know, each with the nearest one that it does. Such a peer ends its tunnel or its stream
# on a code that it doesn't know.
_FIRST_CODES: Final = {
    Reason.FOREIGN_NOT_ALLOWED: Reason.NO_RULE,
    Reason.HOST_NOT_RESOLVED: Reason.EGRESS_NOT_ALLOWED,
    Reason.TRUST_DOMAIN_UNKNOWN: Reason.PEER_UNTRUSTED,
    Reason.MTLS_REQUIRED: Reason.HANDSHAKE_FAILED,
    Reason.PROGRAM_CHANGED: Reason.PROCESS_VANISHED,
    Reason.HOLDERS_UNKNOWN: Reason.OVERLOADED,
    Reason.SENDER_GONE: Reason.PROCESS_VANISHED,
    Reason.EXECUTABLE_FORGED: Reason.EXECUTABLE_UNREADABLE,
    Reason.USER_NAMESPACE_DIFFERS: Reason.EXECUTABLE_UNREADABLE,
    Reason.PROCESS_ORIGIN: Reason.EXECUTABLE_UNREADABLE,
    Reason.SOCKET_NOT_OWN: Reason.SOCKET_SHARED,
    Reason.CODE_NOT_APPROVED: Reason.PROGRAM_NOT_APPROVED,
    Reason.SOCKET_AMBIGUOUS: Reason.NO_OWNER,
    Reason.SHUTTING_DOWN: Reason.OVERLOADED,
    Reason.INTERNAL_ERROR: Reason.PROTOCOL_ERROR,
}


def express_in_first_codes(reason: Reason) -> Reason:
    """Return the reason as release 0.1 knows it."""
    return _FIRST_CODES.get(reason, reason)
