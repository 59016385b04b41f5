"""The table's text: exemptions, and what can't be asked for. End to end: ``tests/sidecar/runtime/test_prepare.py``."""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import replace

import pytest

from shared.model.errors import InputError
from sidecar.capture.redirect_table import RedirectRules, format_table, list_outbound_ports

CHAINS = ("output", "prerouting")


def rules(
    *, uid: int = 1337, mark: int | None = None, exclude: tuple[int, ...] = (), out: int = 15001
) -> RedirectRules:
    return RedirectRules(
        outbound_port=out, inbound_port=15006, tunnel_port=15008, uid=uid, mark=mark, exclude_ports=exclude
    )


def test_the_sidecars_user_is_exempt_or_its_mark_never_both() -> None:
    assert "meta skuid 1337 return" in format_table(rules())
    marked = format_table(rules(mark=7))
    assert "meta mark 0x7 return" in marked
    assert "skuid" not in marked


def test_excluded_ports_are_exempt_in_both_directions() -> None:
    for chain in chains(format_table(rules(exclude=(22, 15443)))):
        assert chain.count("tcp dport { 22, 15443 } return") == 1


def test_an_older_table_is_replaced_in_the_same_transaction() -> None:
    assert format_table(rules()).startswith("table inet touchmark\ndelete table inet touchmark\ntable inet touchmark {")


@pytest.mark.parametrize(("uid", "mark", "out"), [(0, None, 15001), (1, 0, 15001), (1, None, 15008), (1, None, 0)])
def test_what_captures_the_sidecar_itself_or_no_port_is_refused(uid: int, mark: int | None, out: int) -> None:
    with pytest.raises(InputError):
        rules(uid=uid, mark=mark, out=out)


def test_outgoing_connections_have_a_choice_of_ports_that_ends_at_the_named_one() -> None:
    assert list_outbound_ports(15001, 15006, 15008) == range(14970, 15002)
    assert list_outbound_ports(15010, 15006, 15008) == range(15009, 15011)
    assert list_outbound_ports(15007, 15006, 15008) == range(15007, 15008)
    assert list_outbound_ports(3, 15006, 15008) == range(1, 4)
    assert "redirect to :14970-15001\n" in format_table(rules())
    assert "redirect to :15007\n" in format_table(rules(out=15007))


@pytest.mark.parametrize(("out", "ports"), [(15001, "14970-15001"), (15007, "15007")])
def test_a_source_port_that_had_to_change_is_dropped(out: int, ports: str) -> None:
    assert f'oifname "lo" tcp dport {ports} ct status snat counter drop\n' in format_table(rules(out=out))


def chains(text: str) -> tuple[str, str]:
    """The output and the prerouting chain."""
    output, prerouting = (text.partition(f"chain {name} {{")[2].partition("}\n  chain")[0] for name in CHAINS)
    return output, prerouting


def test_what_isnt_captured_is_what_may_leave_untranslated() -> None:
    wanted = RedirectRules(
        outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, exclude_ports=(22,),
        exclude_outbound_ports=(7,), exclude_outbound_networks=(ipaddress.ip_network("10.0.0.0/8"),),
    )  # fmt: skip
    text = format_table(wanted)
    exempt = [line for line in chains(text)[0].splitlines() if line.endswith(" return")][1:]  # The first: not TCP.
    escaping = text.partition("chain escaping {\n")[2].partition("  }\n")[0].splitlines()
    assert escaping == [*exempt, "    counter drop"]
    assert len(exempt) == 4


def test_exclusions_of_one_direction_leave_the_other_captured() -> None:
    wanted = RedirectRules(
        outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, exclude_inbound_ports=(9, 8),
        exclude_outbound_ports=(7,), exclude_ports=(22,),
    )  # fmt: skip
    output, prerouting = chains(format_table(wanted))
    assert "tcp dport { 7, 22 } return" in output
    assert "tcp dport { 8, 9, 22 } return" in prerouting


def test_networks_are_excluded_on_the_way_out_by_family_and_without_overlaps() -> None:
    networks = tuple(map(ipaddress.ip_network, ("10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "198.18.0.1/32")))
    wanted = RedirectRules(
        outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, exclude_outbound_networks=networks
    )
    output, prerouting = chains(format_table(wanted))
    assert "ip daddr { 10.0.0.0/8, 198.18.0.1/32 } return" in output
    assert "ip6 daddr { fd00::/8 } return" in output
    assert "daddr {" not in prerouting


def test_the_health_port_is_never_captured_on_the_way_in() -> None:
    wanted = RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, health_port=15020)
    output, prerouting = chains(format_table(wanted))
    assert "15020" not in output
    assert "tcp dport { 15020 } return" in prerouting
    with pytest.raises(InputError):
        RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, health_port=15006)


def test_what_begins_a_captured_connection_waits_where_that_is_wanted() -> None:
    wanted = RedirectRules(
        outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, exclude_ports=(22,), holds_connects=True
    )
    text = format_table(wanted)
    exempt = [line for line in chains(text)[0].splitlines() if line.endswith(" return")][1:]  # The first: not TCP.
    holding = text.partition("chain holding {\n")[2].partition("  }\n")[0].splitlines()
    assert holding == [*exempt, "    queue num 15001 bypass"]
    # Before the translation at -100: the packet still has the destination that the program dialled.
    held = text.partition("chain held {\n")[2].partition("  }\n")[0]
    assert "hook output priority -150" in held
    assert "tcp flags & (syn | ack) == syn jump holding" in held
    assert "queue" not in format_table(rules())
    towards = format_table(replace(wanted, hold_ports=(601, 514)))
    assert "    tcp dport { 514, 601 } queue num 15001 bypass\n" in towards
    with pytest.raises(InputError, match="none are"):
        replace(rules(), hold_ports=(514,))


@pytest.mark.needs_root
def test_nft_reads_the_rule_for_the_queue() -> None:
    """Whether the kernel has it is another matter: not each is built with NFT_QUEUE."""
    wanted = RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337, holds_connects=True)
    done = subprocess.run(
        ["unshare", "-n", "nft", "-c", "-f", "-"],
        input=format_table(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "syntax error" not in done.stderr
    assert done.returncode == 0 or "queue num 15001 bypass" in done.stderr
