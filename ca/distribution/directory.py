"""Which workload is at an address. In memory; without a cluster loaded from the store.

In a cluster the API server's word comes first: it tells who is at each pod's and Service's address, and what a pod's
sidecar registered adds nothing to that. For all other addresses, those of machines that joined by token, it is what
live sidecars registered. Such an entry outlives its stream for as long as the sidecar is live (a certificate of it is
unexpired): a sidecar that has lost the CA is still in the mesh, and its peers must not fall back to plaintext.
``refresh`` drops what has died.

What this does *not* decide: whether a sidecar may register an address (the store does, by its grant).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from ca.store.records import SidecarRecord
from shared.model.wire.messages import DirectoryEntry
from shared.model.wire.registration import normalise_address


class Directory:
    """Address → entry. Its methods return the addresses whose entry changed, for the hub to push.

    Arguments:
        find_vouched: what the API server says of an address; None: nothing, or there is no API server.
    """

    def __init__(self, *, find_vouched: Callable[[str], DirectoryEntry | None]) -> None:
        self._find_vouched = find_vouched
        self._entries: dict[str, DirectoryEntry] = {}
        self._owners: dict[str, str] = {}
        self._of_instance: dict[str, set[str]] = {}  # The same, the other way round.
        # In the order of these numbers: who registered since the last reading that was put in began, and that reading.
        self._number = 0
        self._registered: dict[str, int] = {}
        self._refreshed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, address: str) -> DirectoryEntry:
        """Return who is at the (normalised) address; an entry without a namespace when the address is unknown."""
        return self._find_vouched(address) or self._entries.get(address) or DirectoryEntry(address=address)

    def register(self, sidecar: SidecarRecord) -> list[str]:
        """Put a sidecar's addresses in; those that it no longer registers go. A pod's are the API server's to name."""
        if not sidecar.pod_uid:
            self._registered[sidecar.instance] = self._take_number()
        return self._put(sidecar)

    def begin_refresh(self) -> int:
        """Return a number for ``refresh``; called before the live sidecars are read."""
        return self._take_number()

    def refresh(self, live: Iterable[SidecarRecord], *, begun: int) -> list[str]:
        """Make the directory what the live sidecars registered; called with ``store.sidecars.list_live``.

        Who registered while they were read may be missing among them, and stays as it is: else nobody would be at its
        address until the next time. What was read before the last reading that was put in changes nothing.

        Arguments:
            begun: what ``begin_refresh`` returned.
        """
        if begun < self._refreshed:
            return []
        self._refreshed = begun
        self._registered = {instance: number for instance, number in self._registered.items() if number > begun}
        taken = {address for instance in self._registered for address in self._of_instance.get(instance, ())}
        sidecars = [each for each in live if not each.pod_uid and each.instance not in self._registered]
        changed: list[str] = []
        # The last registrant wins, as in the store, so that a restarted sidecar's old instance doesn't take back.
        for sidecar in sorted(sidecars, key=lambda sidecar: sidecar.last_seen):
            changed += self._put(sidecar, but=taken)
        kept = {normalise_address(address) for sidecar in sidecars for address in sidecar.addresses} | taken
        changed += [address for address in list(self._entries) if address not in kept and self._remove(address)]
        return list(dict.fromkeys(changed))

    def _put(self, sidecar: SidecarRecord, *, but: Set[str] = frozenset()) -> list[str]:
        """Put in what a sidecar has registered, but for addresses that others have taken since."""
        wanted = {normalise_address(address) for address in sidecar.addresses if not sidecar.pod_uid} - but
        former = self._of_instance.get(sidecar.instance, set()) - wanted
        changed = [address for address in sorted(former) if self._remove(address)]
        for address in sorted(wanted):
            entry = DirectoryEntry(
                address=address,
                namespace=sidecar.workload.namespace,
                service_account=sidecar.workload.service_account,
                tunnel_port=sidecar.tunnel_port,
            )
            self._own(address, sidecar.instance)
            if self._entries.get(address) != entry:
                self._entries[address] = entry
                changed.append(address)
        return changed

    def _take_number(self) -> int:
        self._number += 1
        return self._number

    def _own(self, address: str, instance: str) -> None:
        if self._owners.get(address) != instance:
            self._disown(address)
            self._owners[address] = instance
            self._of_instance.setdefault(instance, set()).add(address)

    def _disown(self, address: str) -> None:
        instance = self._owners.pop(address, "")
        addresses = self._of_instance.get(instance, set())
        addresses.discard(address)
        if not addresses:
            self._of_instance.pop(instance, None)

    def _remove(self, address: str) -> bool:
        self._disown(address)
        return self._entries.pop(address, None) is not None
