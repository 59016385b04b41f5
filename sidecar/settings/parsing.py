"""The words of a configuration: addresses, ports, networks, numbers, names; and the small files that it names.

Belongs here: reading one word and writing it again, each fault one clear sentence. Doesn't: which options there are
(``settings.py``). Pure, but for ``read_small_file``.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from shared.model.errors import InputError
from sidecar.sockets.address import Endpoint, Network

_DNS_PORT = 53
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def parse_endpoint(text: str) -> Endpoint:
    """Read an IP address with its port.

    Raises:
        InputError: it isn't one.
    """
    host, port = parse_host_port(text)
    return parse_address(host), port


def parse_host_port(text: str) -> tuple[str, int]:
    """Read ``host:port``; an IPv6 address stands in brackets.

    Raises:
        InputError: the text has another shape.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InputError(f"not an address with a port: {text[:80]!r}", hint="write an IPv6 address as [::1]:5432")
    if not colon or not host:
        raise InputError(
            f"not an address with a port: {text[:80]!r}", hint="write ADDRESS:PORT, such as 127.0.0.1:5432"
        )
    return host, parse_port(port)


def parse_address(text: str) -> str:
    """Read an IP address and return its one textual form; IPv4-mapped IPv6 becomes IPv4.

    Raises:
        InputError: it isn't an IP address.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InputError(f"not an IP address: {text[:80]!r}") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if address.scope_id is not None:
            raise InputError(f"an address with a scope can't be used: {text[:80]!r}")
    return str(address)


def parse_nameserver(text: str) -> Endpoint:
    """Read a nameserver's IP address, with or without its port; an IPv6 address with a port stands in brackets.

    Raises:
        InputError: it isn't one.
    """
    if text.count(":") == 1 or text.startswith("["):
        return parse_endpoint(text)
    return parse_address(text), _DNS_PORT


def parse_port(text: str) -> int:
    """Read a port.

    Raises:
        InputError: it isn't 1 to 65535.
    """
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise InputError(f"not a port: {text[:80]!r}", hint="ports are 1 to 65535")
    return int(text)


def parse_instance(text: str) -> str:
    """Read a sidecar's name.

    Raises:
        InputError: it isn't 1 to 64 letters, digits, '.', '_' and '-'.
    """
    if not _INSTANCE.fullmatch(text):
        raise InputError(f"not a sidecar's name: {text[:80]!r}", hint="1 to 64 letters, digits, '.', '_' and '-'")
    return text


def parse_natural(text: str, *, least: int, most: int) -> int:
    """Read a decimal or 0x-hexadecimal number between two bounds, both included.

    Raises:
        InputError: it isn't one.
    """
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,19}", text):
        number = int(text, 0) if text.startswith("0x") else int(text)
        if least <= number <= most:
            return number
    raise InputError(f"not a number from {least} to {most}: {text[:80]!r}")


def parse_network(text: str) -> Network:
    """Read a CIDR, such as 198.18.0.0/15; an address alone is itself.

    Raises:
        InputError: it isn't one, or has bits beyond its prefix.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InputError(f"not a CIDR: {text[:80]!r}", hint="such as 198.18.0.0/15 or 2001:db8::/32") from error


def read_small_file(path: Path, what: str, max_bytes: int) -> str:
    """Read a text file of at most ``max_bytes``.

    Raises:
        InputError: it can't be read, isn't UTF-8 or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"can't read the {what}'s file {path}: {reason}") from error
    if len(content) > max_bytes:
        raise InputError(f"the {what}'s file {path} is larger than {max_bytes} bytes")
    return text
