"""Which rules could match a connection, found without looking at the others. Pure.

Belongs here: the index over one list of rules. Doesn't: whether a rule matches (``matching.py``): what is found here is
checked there, and what isn't found can't match.

Rules are filed by their own end's service account, by their peers and by their ports, a rule that leaves one of these
open under "any". A set of rules is a number whose bits are the rules' places in the list, so that three look-ups and
two ``&`` find the candidates, the first rule first. Keys with few rules keep their places instead: that is smaller.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Final

from shared.model.policy.cidr import split_range, unmap
from shared.model.policy.matching import CompiledPeer, CompiledRule
from shared.model.policy.party import Party

_ANY: Final = "/*"
_HOST: Final = "host:"
# More places under one key are kept as a number.
_FEW: Final = 32
# Freed in one step: some ten microseconds.
_CLEARED: Final = 256


class RuleIndex:
    """The rules of one action and direction: first they are added, then it is frozen, then asked.

    Attributes:
        rules: in the order in which they are asked.
        naming_hosts: those that name hosts.
    """

    __slots__ = ("_addresses", "_own", "_peers", "_ports", "naming_hosts", "rules")

    def __init__(self) -> None:
        self.rules: list[CompiledRule] = []
        self.naming_hosts: list[CompiledRule] = []
        self._own, self._peers = _Places(), _Places()
        self._ports = _Prefixes()
        self._addresses = {4: _Prefixes(), 6: _Prefixes()}

    def add(self, rule: CompiledRule) -> None:
        """Add a rule behind the others."""
        place = len(self.rules)
        self.rules.append(rule)
        if any(peer.peer.hosts for peer in rule.peers):
            self.naming_hosts.append(rule)
        for account in rule.workloads or (None,):
            self._own.add(account, place)
        for ports in rule.rule.ports:
            for shift, prefix in split_range(ports.first, ports.last):
                self._ports.add(shift, prefix, place)
        if not rule.rule.ports:
            self._ports.add_any(place)
        for peer in rule.peers:
            self._file_peer(peer, place)
        if not rule.peers:
            self._peers.add(None, place)

    def freeze_in_steps(self) -> Iterator[None]:
        """Make what many rules share as quick to find as the rest, in short steps; after that no rule is added."""
        for places in (self._own, self._peers):
            yield from places.freeze_in_steps()
        for prefixes in (self._ports, *self._addresses.values()):
            yield from prefixes.freeze_in_steps()

    def clear_in_steps(self) -> Iterator[None]:
        """Give up what an index holds that nobody asks any more, in short steps."""
        while self.naming_hosts:
            del self.naming_hosts[-_CLEARED:]
            yield
        while self.rules:
            del self.rules[-_CLEARED:]
            yield
        for places in (self._own, self._peers):
            yield from places.clear_in_steps()
        for prefixes in (self._ports, *self._addresses.values()):
            yield from prefixes.clear_in_steps()

    def find_candidates(self, *, own: Party, peer: Party, port: int) -> Iterator[CompiledRule]:
        """Yield, in their order, all rules that could match, and some that don't.

        Arguments:
            own: the end whose workloads the rules name.
            peer: the other one.
            port: the destination's.
        """
        if not self.rules:
            return
        workload = own.workload or own.listed
        found = self._own.find(None)
        if workload is not None:
            found |= self._own.find(workload.service_account)
        found &= self._ports.find(port)
        if found:
            found &= self._find_by_peer(peer)
        while found:
            lowest = found & -found
            yield self.rules[lowest.bit_length() - 1]
            found ^= lowest

    def _file_peer(self, compiled: CompiledPeer, place: int) -> None:
        peer = compiled.peer
        if peer.spiffe_id:
            self._peers.add(peer.spiffe_id, place)
            self._peers.add(_ANY, place)
        elif peer.unidentified:
            for cidr in compiled.networks:
                self._addresses[cidr.version].add(cidr.shift, cidr.prefix, place)
            for host in peer.hosts:
                self._peers.add(_HOST + host, place)
        elif peer.namespace:
            self._peers.add((peer.namespace, peer.service_account), place)
        else:
            self._peers.add(None, place)

    def _find_by_peer(self, party: Party) -> int:
        peers = self._peers
        found = peers.find(None)
        workload = party.workload or party.listed
        if workload is not None:
            found |= peers.find((workload.namespace, "")) | peers.find((workload.namespace, workload.service_account))
        if party.foreign is not None:
            spiffe_id = str(party.foreign)
            found |= peers.find(spiffe_id)
            for end, character in enumerate(spiffe_id):
                if character == "/":
                    found |= peers.find(spiffe_id[:end] + _ANY)
        elif party.is_pending:
            found |= peers.find(_ANY)  # A foreign peer perhaps: its certificate will tell.
        for host in party.hosts:
            found |= peers.find(_HOST + host)
        if party.program is None and party.address is not None:
            address = unmap(party.address)
            found |= self._addresses[address.version].find(int(address))
        return found


class _Places:
    """Places by key, each key's as a number of bits."""

    __slots__ = ("_few", "_grown", "_many")

    def __init__(self) -> None:
        # Most keys have one place: a number costs less memory than a list, and the garbage collector no time.
        self._few: dict[Hashable, int | list[int]] = {}
        self._grown: list[Hashable] = []
        self._many: dict[Hashable, int] = {}

    def add(self, key: Hashable, place: int) -> None:
        """File a place; none after ``freeze_in_steps``."""
        places = self._few.get(key)
        if places is None:
            self._few[key] = place
        elif isinstance(places, int):
            if places != place:
                self._few[key] = [places, place]
        elif places[-1] != place:
            places.append(place)
            if len(places) == _FEW + 1:
                self._grown.append(key)

    def freeze_in_steps(self) -> Iterator[None]:
        """Make keys with many places as quick to find as others, one at a step."""
        for key in self._grown:
            if isinstance(places := self._few.pop(key), list):
                self._many[key] = _make_bits(places)
            yield

    def clear_in_steps(self) -> Iterator[None]:
        """Forget all keys."""
        for table in (self._few, self._many):
            while table:
                for _ in range(min(_CLEARED, len(table))):
                    table.popitem()
                yield

    def find(self, key: Hashable) -> int:
        """Return the places that are filed under a key."""
        if (places := self._few.get(key)) is not None:
            if isinstance(places, int):
                return 1 << places
            found = 0
            for place in places:
                found |= 1 << place
            return found
        return self._many.get(key, 0)


class _Prefixes:
    """Places by prefix: of an address, or of a port, which is a number of 16 bits."""

    __slots__ = ("_any", "_by_shift")

    def __init__(self) -> None:
        self._any = _Places()
        self._by_shift: dict[int, _Places] = {}

    def add(self, shift: int, prefix: int, place: int) -> None:
        """File a place under all numbers that begin so."""
        places = self._by_shift.get(shift)
        if places is None:
            places = self._by_shift[shift] = _Places()
        places.add(prefix, place)

    def add_any(self, place: int) -> None:
        """File a place under all numbers."""
        self._any.add(None, place)

    def freeze_in_steps(self) -> Iterator[None]:
        """File no more."""
        for places in (self._any, *self._by_shift.values()):
            yield from places.freeze_in_steps()

    def clear_in_steps(self) -> Iterator[None]:
        """Forget all prefixes."""
        for places in (self._any, *self._by_shift.values()):
            yield from places.clear_in_steps()

    def find(self, number: int) -> int:
        """Return the places under which a number is filed: one look-up for each length of prefix that there is."""
        found = self._any.find(None)
        for shift, places in self._by_shift.items():
            found |= places.find(number >> shift)
        return found


def _make_bits(places: Sequence[int]) -> int:
    data = bytearray(places[-1] // 8 + 1)
    for place in places:
        data[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(data, "little")
