"""The nftables table that redirects a pod's TCP to its sidecar, as text. Pure.

Belongs here: the rules. Doesn't: installing them (``redirect.py``). One table, ``inet touchmark``, so that IPv6 equals
IPv4. NAT chains see the first packet of a connection only: a connection that was there before the table isn't captured.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from shared.model.errors import InputError
from sidecar.sockets.address import Network

TABLE = "inet touchmark"
_MAX_OUTBOUND_PORTS = 32


def list_outbound_ports(last: int, inbound_port: int, tunnel_port: int) -> range:
    """List the ports to which outgoing connections are redirected: 32 up to ``last``, fewer above another own port.

    One port isn't enough: programs use one source port towards several destinations, and all of these become the same
    connection once redirected. The kernel then changes the *source* port, and the program's socket isn't found any
    more. With a choice of ports it changes the destination port instead (``nf_nat_core.c``, ``get_unique_tuple``). When
    all of them are taken, the table drops what would get another source port, since that may be the one of another
    program's connection to the same destination.
    """
    first = max(last - _MAX_OUTBOUND_PORTS + 1, 1, *(port + 1 for port in (inbound_port, tunnel_port) if port < last))
    return range(first, last + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectRules:
    """What is captured and what isn't.

    Attributes:
        outbound_port: where the sidecar accepts what programs dial: the last of ``list_outbound_ports``.
        inbound_port: where it accepts what comes from outside without a tunnel.
        tunnel_port: peers' sidecars arrive here; not redirected.
        uid: the sidecar's user, whose own connections go out as they are; ignored when ``mark`` is set.
        mark: where every process has the same user: the sidecar's sockets carry this SO_MARK.
        holds_connects: a connection's first packet waits in the queue ``outbound_port`` until the sidecar lets it pass.
        hold_ports: towards these destination ports only; empty for all.
        health_port: where the sidecar answers the kubelet; not redirected. None: there is none.
        exclude_ports: destination ports that are never captured, in either direction.
        exclude_inbound_ports: ports of the pod that are reached without the sidecar.
        exclude_outbound_ports: destination ports that the pod reaches without the sidecar.
        exclude_outbound_networks: destinations that the pod reaches without the sidecar.

    Raises:
        InputError: a port is wrong or used twice, or nothing exempts the sidecar.
    """

    outbound_port: int
    inbound_port: int
    tunnel_port: int
    uid: int
    mark: int | None = None
    holds_connects: bool = False
    hold_ports: tuple[int, ...] = ()
    health_port: int | None = None
    exclude_ports: tuple[int, ...] = ()
    exclude_inbound_ports: tuple[int, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    exclude_outbound_networks: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        own = [self.outbound_port, self.inbound_port, self.tunnel_port]
        own += [] if self.health_port is None else [self.health_port]
        if self.hold_ports and not self.holds_connects:
            raise InputError("ports are given whose connections are held, and none are", hint="redirect.holdConnects")
        excluded = (*self.hold_ports, *self.exclude_ports, *self.exclude_inbound_ports, *self.exclude_outbound_ports)
        for port in (*own, *excluded):
            if not 1 <= port <= 65535:
                raise InputError(f"not a port: {port}", hint="ports are 1 to 65535")
        if len(set(own)) != len(own):
            raise InputError("outbound, inbound, tunnel and health ports must differ")
        if self.mark is None and self.uid == 0:
            raise InputError(
                "the sidecar can't be told from root's programs", hint="give it a user of its own (redirect.uid)"
            )
        if self.mark == 0:
            raise InputError("0 is no mark: every socket has it")


def format_table(rules: RedirectRules) -> str:
    """Write the commands for ``nft -f -`` that replace the table in one transaction."""
    own = f"meta mark {rules.mark:#x}" if rules.mark is not None else f"meta skuid {rules.uid}"
    outbound = list_outbound_ports(rules.outbound_port, rules.inbound_port, rules.tunnel_port)
    targets = f"{outbound[0]}-{outbound[-1]}" if len(outbound) > 1 else f"{outbound[0]}"
    not_captured = [
        f"    {own} return",
        # Loopback to loopback, and a pod's own addresses: the pod talks to itself. By the address, not by the device:
        # a socket bound to `lo` may dial any address, and conntrack would remember that it isn't translated.
        "    fib daddr type local return",
        *_exclude_ports((*rules.exclude_ports, *rules.exclude_outbound_ports)),
        *_exclude_networks(rules.exclude_outbound_networks),
    ]
    lines = [
        f"table {TABLE}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
        "  chain output {",
        "    type nat hook output priority -100; policy accept;",
        "    meta l4proto != tcp return",
        *not_captured,
        f"    meta l4proto tcp redirect to :{targets}",
        "  }",
        "  chain prerouting {",
        "    type nat hook prerouting priority -100; policy accept;",
        "    meta l4proto != tcp return",
        '    iifname "lo" return',
        "    fib daddr type != local return",  # Forwarded: for somebody else.
        *_exclude_ports(() if rules.health_port is None else (rules.health_port,)),
        f"    tcp dport {rules.tunnel_port} return",
        *_exclude_ports((*rules.exclude_ports, *rules.exclude_inbound_ports)),
        f"    meta l4proto tcp redirect to :{rules.inbound_port}",
        "  }",
        # NAT rules see only what conntrack doesn't know yet. What leaves untranslated all the same is dropped.
        "  chain escaping {",
        *not_captured,
        "    counter drop",
        "  }",
        "  chain escaped {",
        "    type filter hook output priority 0; policy accept;",
        "    tcp flags & (syn | ack) == syn jump escaping",
        "  }",
        *_hold(rules, not_captured),
        "  chain rewritten {",
        # After every source translation, and before conntrack confirms the connection: a retransmitted SYN tries anew.
        "    type filter hook postrouting priority 150; policy accept;",
        f'    oifname "lo" tcp dport {targets} ct status snat counter drop',
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _hold(rules: RedirectRules, not_captured: Iterable[str]) -> list[str]:
    """Queue what begins a captured connection, before it is translated: the packet has the socket's own addresses.

    ``bypass``: where the queue isn't open the packet passes. That costs a program that exits at once its identity, and
    loosens nothing: whatever arrives is attested by the same rules.
    """
    if not rules.holds_connects:
        return []
    towards = f"tcp dport {{ {', '.join(map(str, sorted(set(rules.hold_ports))))} }} " if rules.hold_ports else ""
    return [
        "  chain holding {",
        *not_captured,
        f"    {towards}queue num {rules.outbound_port} bypass",
        "  }",
        "  chain held {",
        "    type filter hook output priority -150; policy accept;",
        "    tcp flags & (syn | ack) == syn jump holding",
        "  }",
    ]


def _exclude_ports(ports: Iterable[int]) -> list[str]:
    numbers = sorted(set(ports))
    return [f"    tcp dport {{ {', '.join(map(str, numbers))} }} return"] if numbers else []


def _exclude_networks(networks: Iterable[Network]) -> list[str]:
    # Collapsed: nft refuses a set with overlapping intervals.
    v4 = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
    lines = []
    for family, addresses in (("ip", ", ".join(map(str, v4))), ("ip6", ", ".join(map(str, v6)))):
        if addresses:
            lines.append(f"    {family} daddr {{ {addresses} }} return")
    return lines
