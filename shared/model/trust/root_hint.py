"""The roots that a client of the CA knows, sent in TLS as the server name (SNI): the CA presents a chain to one. Pure.

While a root is rotated some clients know only the old one (a join token from before, a mounted file that the kubelet
hasn't renewed) and others only the new one (a join token from after). OpenSSL tries one path of the chain that a server
sends, so that no single chain serves both; and the CA is known by its SPIFFE ID, which leaves the server name free.

It is a hint and proves nothing: the client verifies the chain against the roots that it knows. A server that doesn't
know the hint ignores it.

Source: RFC 6066, section 3 (server names); RFC 1035, section 2.3.4 (labels of 63, names of 255 octets); RFC 6761,
section 6.4 (``.invalid`` is never resolved).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MAX_HINTED: Final = 6
# Half a SHA-256: a label holds no more than 63 characters, and nothing is trusted for it.
_PIN_CHARACTERS: Final = 32
_SUFFIX: Final = ".roots.touchmark.invalid"
_LABEL: Final = re.compile(f"[0-9a-f]{{{_PIN_CHARACTERS}}}")


def format_root_hint(pins: Sequence[str]) -> str:
    """Write the server name that lists the known roots; of many the last ones, which are the newest.

    Arguments:
        pins: SHA-256 (hexadecimal) of each root's SubjectPublicKeyInfo; at least one.
    """
    return ".".join(pin[:_PIN_CHARACTERS] for pin in pins[-MAX_HINTED:]) + _SUFFIX


def parse_root_hint(name: str | None) -> tuple[str, ...]:
    """Return the pin prefixes that a server name lists; none for any other name."""
    if name is None or not name.endswith(_SUFFIX):
        return ()
    labels = name.removesuffix(_SUFFIX).split(".")
    return tuple(label for label in labels[:MAX_HINTED] if _LABEL.fullmatch(label))


def is_hinted(pin: str, hints: Sequence[str]) -> bool:
    """Return whether a root is among those of a hint."""
    return pin[:_PIN_CHARACTERS] in hints
