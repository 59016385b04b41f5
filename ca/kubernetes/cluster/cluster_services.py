"""The cluster's Services with their ready endpoints, by cluster IP: what a sidecar needs to pick one itself. Pure.

Belongs here: what is remembered of Services and EndpointSlices, and how they are joined. Doesn't: following them
(``ca/kubernetes/api/watch.py``), or picking (the sidecar does).

As kube-proxy does it: a Service's port is joined with its slices' port of the same name, whose number is the backend's
(named target ports are resolved in the slice already); an endpoint counts while its condition ``ready`` isn't false;
v4 addresses have v4 endpoints, v6 ones v6. Unlike kube-proxy: endpoints that only serve while they terminate are never
used, also when there is no other; ``internalTrafficPolicy: Local`` and topology hints are not looked at; addresses of
load balancers and external IPs are unknown here, so that they are as foreign as any other.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from shared.model.errors import InputError
from shared.model.wire.messages import DirectoryEntry, ServiceEntry, ServicePort
from shared.model.wire.registration import normalise_address

# Of one port. A sidecar needs some to pick from, not all of a Service's thousands.
MAX_ENDPOINTS: Final = 1000
_DEFAULT_AFFINITY_S: Final = 10_800


class _Fields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class _Labels(msgspec.Struct, frozen=True):
    service: str = msgspec.field(name="kubernetes.io/service-name", default="")


class _Metadata(_Fields, frozen=True):
    name: str = ""
    namespace: str = ""
    labels: _Labels | None = None


class _Port(_Fields, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _ClientIP(_Fields, frozen=True):
    timeout_seconds: int | None = None


class _AffinityConfig(_Fields, frozen=True):
    client_ip: _ClientIP | None = msgspec.field(name="clientIP", default=None)


class _ServiceSpec(_Fields, frozen=True):
    cluster_ips: tuple[str, ...] | None = msgspec.field(name="clusterIPs", default=None)
    ports: tuple[_Port, ...] | None = None
    session_affinity: str = ""
    session_affinity_config: _AffinityConfig | None = None


class Service(_Fields, frozen=True):
    """The fields of a Service that the CA reads."""

    metadata: _Metadata
    spec: _ServiceSpec


class _Conditions(_Fields, frozen=True):
    ready: bool | None = None


class _Endpoint(_Fields, frozen=True):
    addresses: tuple[str, ...] | None = None
    conditions: _Conditions | None = None


class EndpointSlice(_Fields, frozen=True):
    """The fields of an EndpointSlice that the CA reads."""

    metadata: _Metadata
    address_type: str = ""
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is remembered of a Service.

    Attributes:
        addresses: its cluster IPs, in their one spelling; none for a headless or ExternalName one.
        affinity_s: 0: none.
        ports: names and numbers of its TCP ports.
    """

    namespace: str
    name: str
    addresses: tuple[str, ...]
    affinity_s: int
    ports: tuple[tuple[str, int], ...]


class SliceRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is remembered of an EndpointSlice.

    Attributes:
        service: whose it is.
        ports: names and numbers (the backend's) of its TCP ports.
        ready: addresses of its ready endpoints, sorted.
    """

    namespace: str
    name: str
    service: str
    is_v6: bool
    ports: tuple[tuple[str, int], ...]
    ready: tuple[str, ...]


_Key = tuple[str, str]


class ServiceIndex:
    """Every Service by cluster IP.

    Arguments:
        on_addresses: called with the cluster IPs whose entry has changed.

    Attributes:
        services, slices: where their watches put what they see.
    """

    def __init__(self, *, on_addresses: Callable[[Iterable[str]], None]) -> None:
        self._services: dict[_Key, ServiceRecord] = {}
        self._slices: dict[_Key, SliceRecord] = {}
        self._slices_of: dict[_Key, dict[str, SliceRecord]] = {}
        self._addresses: dict[str, _Key] = {}
        self._on_addresses = on_addresses
        self.services = ServiceSink(self)
        self.slices = SliceSink(self)

    def __len__(self) -> int:
        return len(self._addresses)

    def get_entry(self, address: str) -> DirectoryEntry | None:
        """Return the directory entry of a (normalised) cluster IP; None: it is no Service's."""
        key = self._addresses.get(address)
        if key is None:
            return None
        service = self._services[key]
        is_v6 = _is_v6(address)
        slices = [each for each in self._slices_of.get(key, {}).values() if each.is_v6 == is_v6]
        ports = tuple(
            ServicePort(port=number, endpoints=_join_endpoints(slices, name)) for name, number in service.ports
        )
        entry = ServiceEntry(namespace=service.namespace, name=service.name, affinity_s=service.affinity_s, ports=ports)
        return DirectoryEntry(address=address, service=entry)

    def put_service(self, record: ServiceRecord) -> None:
        """This Service is new or has changed."""
        key = (record.namespace, record.name)
        known = self._services.get(key)
        if record == known:
            return
        self._services[key] = record
        changed = dict.fromkeys((*(known.addresses if known is not None else ()), *record.addresses))
        for address in changed:
            if address in record.addresses:
                self._addresses[address] = key  # Deleted and made anew elsewhere: the last one has it.
            elif self._addresses.get(address) == key:
                del self._addresses[address]
        self._on_addresses(changed)

    def drop_service(self, key: _Key) -> None:
        """This Service has been deleted."""
        known = self._services.pop(key, None)
        if known is None:
            return
        gone = [address for address in known.addresses if self._addresses.get(address) == key]
        for address in gone:
            del self._addresses[address]
        self._on_addresses(gone)

    def put_slice(self, record: SliceRecord) -> None:
        """This slice is new or has changed."""
        key = (record.namespace, record.name)
        known = self._slices.get(key)
        if record == known:
            return
        if known is not None and (known.service, known.is_v6) != (record.service, record.is_v6):
            self.drop_slice(key)
        self._slices[key] = record
        self._slices_of.setdefault((record.namespace, record.service), {})[record.name] = record
        self._tell(record)

    def drop_slice(self, key: _Key) -> None:
        """This slice has been deleted."""
        known = self._slices.pop(key, None)
        if known is None:
            return
        owner = (known.namespace, known.service)
        siblings = self._slices_of[owner]
        del siblings[known.name]
        if not siblings:
            del self._slices_of[owner]
        self._tell(known)

    def _tell(self, slice_: SliceRecord) -> None:
        service = self._services.get((slice_.namespace, slice_.service))
        if service is not None:
            self._on_addresses([a for a in service.addresses if _is_v6(a) == slice_.is_v6])


class ServiceSink:
    """Takes what the watch of Services sees."""

    def __init__(self, index: ServiceIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index._services)

    def replace(self, values: Sequence[ServiceRecord]) -> None:
        """These are all there are."""
        listed = {(value.namespace, value.name) for value in values}
        for key in [key for key in self._index._services if key not in listed]:
            self._index.drop_service(key)
        for value in values:
            self.apply(value)

    def apply(self, value: ServiceRecord) -> None:
        """This one is new or has changed."""
        self._index.put_service(value)

    def remove(self, value: ServiceRecord) -> None:
        """This one has been deleted."""
        self._index.drop_service((value.namespace, value.name))


class SliceSink:
    """Takes what the watch of EndpointSlices sees."""

    def __init__(self, index: ServiceIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index._slices)

    def replace(self, values: Sequence[SliceRecord]) -> None:
        """These are all there are."""
        listed = {(value.namespace, value.name) for value in values}
        for key in [key for key in self._index._slices if key not in listed]:
            self._index.drop_slice(key)
        for value in values:
            self.apply(value)

    def apply(self, value: SliceRecord) -> None:
        """This one is new or has changed."""
        self._index.put_slice(value)

    def remove(self, value: SliceRecord) -> None:
        """This one has been deleted."""
        self._index.drop_slice((value.namespace, value.name))


def trim_service(service: Service) -> ServiceRecord:
    """Make what is remembered of a Service."""
    spec = service.spec
    affinity_s = 0
    if spec.session_affinity == "ClientIP":
        config = spec.session_affinity_config
        given = config.client_ip.timeout_seconds if config is not None and config.client_ip is not None else None
        affinity_s = _DEFAULT_AFFINITY_S if given is None else given
    return ServiceRecord(
        namespace=sys.intern(service.metadata.namespace),
        name=service.metadata.name,
        addresses=_normalise(spec.cluster_ips or ()),  # "None": headless.
        affinity_s=affinity_s,
        ports=_read_ports(spec.ports),
    )


def trim_slice(slice_: EndpointSlice) -> SliceRecord:
    """Make what is remembered of an EndpointSlice. One of names (FQDN) has no addresses."""
    labels = slice_.metadata.labels
    ready: list[str] = []
    for endpoint in slice_.endpoints or ():
        if endpoint.conditions is None or endpoint.conditions.ready is not False:
            # "Clients must ignore all but the first" (EndpointSlice API).
            ready.extend(endpoint.addresses[:1] if endpoint.addresses is not None else ())
    return SliceRecord(
        namespace=sys.intern(slice_.metadata.namespace),
        name=slice_.metadata.name,
        service=labels.service if labels is not None else "",
        is_v6=slice_.address_type == "IPv6",
        ports=_read_ports(slice_.ports),
        ready=tuple(sorted(_normalise(ready))) if slice_.address_type in ("IPv4", "IPv6") else (),
    )


def _read_ports(ports: Sequence[_Port] | None) -> tuple[tuple[str, int], ...]:
    return tuple(
        (sys.intern(port.name or ""), port.port)
        for port in ports or ()
        if port.protocol in (None, "", "TCP") and port.port is not None and 1 <= port.port <= 65535
    )


def _normalise(addresses: Iterable[str]) -> tuple[str, ...]:
    known: dict[str, None] = {}
    for address in addresses:
        try:
            known[normalise_address(address)] = None
        except InputError:
            continue
    return tuple(known)


def _join_endpoints(slices: Sequence[SliceRecord], name: str) -> tuple[tuple[str, int], ...]:
    # Sorted, each once (an endpoint may stand in two slices while it moves): the same state is the same entry.
    endpoints = {
        (address, number)
        for each in slices
        for port_name, number in each.ports
        if port_name == name
        for address in each.ready
    }
    return tuple(sorted(endpoints)[:MAX_ENDPOINTS])


def _is_v6(address: str) -> bool:
    return ipaddress.ip_address(address).version == 6
