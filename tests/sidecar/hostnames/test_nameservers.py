"""Which nameservers are asked."""

from __future__ import annotations

from pathlib import Path

from sidecar.hostnames.nameservers import find_nameservers, read_nameservers


def test_the_first_three_nameservers_that_can_be_asked_count() -> None:
    text = """
    # nameserver 198.18.0.1
    search shop.svc.cluster.local
    nameserver 198.18.0.2
    nameserver nonsense
    nameserver fe80::1%eth0
    nameserver 2001:DB8::1 # the second
    nameserver 198.18.0.2
    nameserver
    nameserver 198.18.0.3
    nameserver 198.18.0.4
    """
    assert find_nameservers(text) == (("198.18.0.2", 53), ("2001:db8::1", 53), ("198.18.0.3", 53))


def test_a_file_that_cant_be_read_names_none(tmp_path: Path) -> None:
    assert read_nameservers(tmp_path / "none") == ()
    (tmp_path / "resolv.conf").write_bytes(b"nameserver 198.18.0.2\n\xff\xfe\n")
    assert read_nameservers(tmp_path / "resolv.conf") == (("198.18.0.2", 53),)
