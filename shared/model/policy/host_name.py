"""Host names in egress rules: what may be written, and which addresses a name can't mean. Pure.

Belongs here: the notation. Doesn't: resolving a name (``sidecar/hostnames/``), or which rule matches (``matching.py``).
"""

from __future__ import annotations

import re
from typing import Final

from shared.model.errors import InputError
from shared.model.policy.cidr import METADATA_ADDRESSES, Address

# Different names in one namespace's rules: each is asked for again and again by each sidecar whose rules name it.
MAX_HOSTS: Final = 256
MAX_NAME_CHARACTERS: Final = 253
# RFC 1123, section 2.1, and underscores, which DNS takes (RFC 2181, section 11). No top-level domain begins with a
# digit: what does is an address, or meant to be. manifests/crds says the same.
_LABEL_END: Final = "(?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:[a-z0-9_]{_LABEL_END}\.)*[a-z_]{_LABEL_END}")


def check_host(name: str) -> str:
    """Return a host name that an egress rule may have: exact, lower-case, without a final dot.

    Raises:
        InputError: it isn't one; among others a wildcard.
    """
    if "*" in name:
        raise InputError(
            f"a wildcard can't be resolved: {name[:80]!r}",
            hint="name each host, or allow the addresses by `cidrs`: a rule goes by what a name resolves to, and no"
            " sidecar can ask for all names below another one",
        )
    if len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name):
        return name
    if len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name.lower().removesuffix(".")):
        raise InputError(f"not as host names are written here: {name!r}", hint=f"write {name.lower().rstrip('.')}")
    raise InputError(
        f"not a host name: {name[:80]!r}",
        hint="such as api.example.com; an address goes into `cidrs`, other letters are written as DNS has them (xn--…)",
    )


def can_mean(address: Address) -> bool:
    """Return whether a rule that names a host can mean this address, whatever the name resolves to.

    Who answers for the name must not open a way to what gives the node's credentials, or to the neighbourhood that
    only the node's own network has.
    """
    return not (
        address in METADATA_ADDRESSES or address.is_link_local or address.is_multicast or address.is_unspecified
    )
