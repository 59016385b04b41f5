"""What a sidecar says of itself, checked: its name, its addresses, its labels. Pure.

Belongs here: which values can be. Doesn't: what a grant allows beyond that (``ca/authenticate``), or who holds an
address (``ca/store/sidecars.py``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from shared.model.errors import InputError, RefusedError
from shared.model.wire.messages import Registration

MAX_ADDRESSES: Final = 64
MAX_LABELS: Final = 64
MAX_LABEL_CHARACTERS: Final = 256
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_WORD_CHARACTERS: Final = 64
_MAX_TIME_MS: Final = 2**53


def check_instance(instance: str) -> str:
    """Return the instance's name unchanged.

    Raises:
        InputError: it isn't 1 to 64 letters, digits, ``.``, ``_``, ``-``.
    """
    if not _INSTANCE.fullmatch(instance):
        raise InputError("not an instance name", hint="1 to 64 letters, digits, '.', '_' or '-'")
    return instance


def check_registration(registration: Registration, allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the registration's addresses in canonical form.

    Raises:
        RefusedError: an address that the grant doesn't name.
        InputError: a value can't be.
    """
    check_instance(registration.instance)
    if not 0 <= registration.tunnel_port <= 65535:
        raise InputError(f"not a port: {registration.tunnel_port}")
    if max(len(registration.version), len(registration.capture)) > _MAX_WORD_CHARACTERS:
        raise InputError(f"version and capture are at most {_MAX_WORD_CHARACTERS} characters")
    if not 0 <= registration.time_ms <= _MAX_TIME_MS:
        raise InputError("not a time in milliseconds since the epoch")
    addresses = normalise_addresses(registration.addresses)
    foreign = sorted(set(addresses) - set(allowed))
    if foreign:
        raise RefusedError(
            f"the join token doesn't name {', '.join(foreign)}", hint="make one that does: `ca join-token --address`"
        )
    return addresses


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Return the labels unchanged.

    Raises:
        InputError: there are too many, or one is empty or too long.
    """
    words = [*labels, *labels.values()]
    if len(labels) > MAX_LABELS or "" in labels or any(len(word) > MAX_LABEL_CHARACTERS for word in words):
        raise InputError(f"at most {MAX_LABELS} labels of at most {MAX_LABEL_CHARACTERS} characters, none unnamed")
    return labels


def normalise_address(text: str) -> str:
    """Return the IP address in canonical form; a v4-mapped v6 address becomes v4.

    Raises:
        InputError: it isn't an IP address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InputError(f"not an IP address: {text[:80]!r}") from error
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def normalise_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses in canonical form, each once, in their order.

    Raises:
        InputError: one isn't an IP address, or there are more than ``MAX_ADDRESSES``.
    """
    known = tuple(dict.fromkeys(normalise_address(address) for address in addresses))
    if len(known) > MAX_ADDRESSES:
        raise InputError(f"at most {MAX_ADDRESSES} addresses per sidecar")
    return known
