"""Whether a rule matches a connection: the meaning of each of its parts. Pure.

Belongs here: one rule at a time, made ready for it. Doesn't: the order of rules and what follows (``evaluate.py``),
which rules are asked (``rule_index.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shared.model.identity.foreign import is_matched
from shared.model.identity.program import Program
from shared.model.policy.cidr import Address, Cidr, is_named, is_within, parse_cidr, unmap
from shared.model.policy.host_name import can_mean
from shared.model.policy.party import Party
from shared.model.policy.rules import Peer, Rule


class CompiledPeer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule's peer with its networks read."""

    peer: Peer
    networks: tuple[Cidr, ...]


class CompiledRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule made ready.

    Attributes:
        qualified_name: ``namespace/name``.
    """

    rule: Rule
    qualified_name: str
    workloads: frozenset[str]
    programs: frozenset[Program]
    peers: tuple[CompiledPeer, ...]


def compile_rule(namespace: str, rule: Rule) -> CompiledRule:
    """Make a namespace's rule ready."""
    return CompiledRule(
        rule=rule,
        qualified_name=f"{namespace}/{rule.name}",
        workloads=frozenset(rule.workloads),
        programs=frozenset(rule.programs),
        peers=tuple(
            CompiledPeer(peer=peer, networks=tuple(parse_cidr(cidr) for cidr in peer.cidrs)) for peer in rule.peers
        ),
    )


class Matcher(msgspec.Struct, frozen=True, kw_only=True):
    """Whether rules match one connection. ``*_identified`` means: an approved program, proven."""

    source: Party
    destination: Party
    port: int
    source_identified: bool
    destination_identified: bool

    def denies_ingress(self, compiled: CompiledRule) -> bool:
        """Return whether a deny rule for ingress matches."""
        return (
            self._port_matches(compiled)
            and _own_end_denied(compiled, self.destination)
            and _peer_end_denied(compiled, self.source)
        )

    def denies_egress(self, compiled: CompiledRule) -> bool:
        """Return whether a deny rule for egress matches."""
        return (
            self._port_matches(compiled)
            and _own_end_denied(compiled, self.source)
            and _peer_end_denied(compiled, self.destination)
        )

    def allows_ingress(self, compiled: CompiledRule) -> bool:
        """Return whether an allow rule for ingress matches."""
        return (
            self._port_matches(compiled)
            and _own_end_allowed(compiled, self.destination, identified=self.destination_identified)
            and _peer_end_allowed(compiled, self.source, identified=self.source_identified)
        )

    def allows_egress(self, compiled: CompiledRule) -> bool:
        """Return whether an allow rule for egress matches."""
        return (
            self._port_matches(compiled)
            and _own_end_allowed(compiled, self.source, identified=self.source_identified)
            and _peer_end_allowed(compiled, self.destination, identified=self.destination_identified)
        )

    def concerns_source(self, compiled: CompiledRule) -> bool:
        """Return whether an allow rule for egress is for this source and port, whatever the destination is."""
        return self._port_matches(compiled) and _own_end_allowed(
            compiled, self.source, identified=self.source_identified
        )

    def _port_matches(self, compiled: CompiledRule) -> bool:
        ports = compiled.rule.ports
        return not ports or any(each.first <= self.port <= each.last for each in ports)


def _own_end_denied(compiled: CompiledRule, party: Party) -> bool:
    workload = party.workload or party.listed
    if compiled.workloads and (workload is None or workload.service_account not in compiled.workloads):
        return False
    if compiled.programs and party.is_pending:
        return False
    # A deny rule that names programs also matches an end whose program isn't known: hiding it evades nothing.
    return not compiled.programs or any(_program_denied(each, party.program) for each in compiled.programs)


def _program_denied(named: Program, found: Program | None) -> bool:
    """A bare digest denies whatever script the interpreter claims to run: the claim could be forged."""
    return found is None or named == found or (not named.main and named.digest == found.digest)


def _own_end_allowed(compiled: CompiledRule, party: Party, *, identified: bool) -> bool:
    if not identified or party.workload is None:
        return False
    if compiled.workloads and party.workload.service_account not in compiled.workloads:
        return False
    return party.is_pending or not compiled.programs or party.program in compiled.programs


def _peer_end_denied(compiled: CompiledRule, party: Party) -> bool:
    if not compiled.peers:
        return True
    return any(_peer_denied(each, party) for each in compiled.peers)


def _peer_denied(compiled: CompiledPeer, party: Party) -> bool:
    peer = compiled.peer
    if peer.spiffe_id:
        return party.foreign is not None and is_matched(peer.spiffe_id, party.foreign)
    if peer.unidentified:
        is_unmarked = party.program is None and party.foreign is None and not party.is_pending
        return is_unmarked and _address_matches(compiled, party.address, is_within)
    workload = party.workload or party.listed
    if workload is None:
        return not peer.namespace
    if peer.namespace and peer.namespace != workload.namespace:
        return False
    if peer.service_account and peer.service_account != workload.service_account:
        return False
    if peer.program is not None and party.is_pending:
        return False
    return peer.program is None or _program_denied(peer.program, party.program)


def _peer_end_allowed(compiled: CompiledRule, party: Party, *, identified: bool) -> bool:
    if not compiled.peers:
        return identified
    return any(_peer_allowed(each, party, identified=identified) for each in compiled.peers)


def _peer_allowed(compiled: CompiledPeer, party: Party, *, identified: bool) -> bool:
    peer = compiled.peer
    if peer.spiffe_id:
        if party.foreign is None:
            return party.is_pending and party.workload is None
        return is_matched(peer.spiffe_id, party.foreign)
    if peer.unidentified:
        is_proven = party.workload is not None or party.program is not None or party.foreign is not None
        is_stranger = not is_proven and party.listed is None and not party.is_pending
        return is_stranger and (_host_matches(peer, party) or _address_matches(compiled, party.address, is_named))
    if not identified or party.workload is None:
        return False
    if peer.namespace and peer.namespace != party.workload.namespace:
        return False
    if peer.service_account and peer.service_account != party.workload.service_account:
        return False
    return peer.program is None or peer.program == party.program


def _host_matches(peer: Peer, party: Party) -> bool:
    """Return whether one of a peer's names resolves to the party's address, which a name can mean."""
    if not party.hosts or (party.address is not None and not can_mean(unmap(party.address))):
        return False
    return any(host in party.hosts for host in peer.hosts)


def _address_matches(
    compiled: CompiledPeer, address: Address | None, is_meant: Callable[[Cidr, Address], bool]
) -> bool:
    if address is None:
        return False
    address = unmap(address)
    return any(is_meant(network, address) for network in compiled.networks)
