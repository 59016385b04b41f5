"""The two ways to join: what each trusts and shows at each dial. What follows is shown by ``test_feed.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import UnavailableError
from shared.model.identity.identity import parse_workload
from shared.model.trust.join_token import parse_join_token
from shared.model.wire.messages import Enrol, EnrolPod, Registration
from sidecar.control.joining import MAX_ROOTS, ByJoinToken, ByPod, Greeting, read_roots
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA

REGISTRATION = Registration(instance="one", version="0", addresses=(), tunnel_port=15008, capture="redirect")
GREETING = Greeting(protocol=2, nonce=None, server_certificate=b"")
NOBODY = ("127.0.0.1", 1)


def by_pod(directory: Path) -> ByPod:
    return ByPod(
        token_file=directory / "token",
        trust_file=directory / "roots.pem",
        trust_domain=TRUST_DOMAIN,
        workload=parse_workload("shop/web"),
    )


async def test_a_join_token_trusts_the_root_that_it_pins_and_then_those_of_the_bundle() -> None:
    async with LittleCA().serving() as ca:
        text = ca.make_token("shop/web")
        joining = ByJoinToken(token=parse_join_token(text))
        there = (ca.host, ca.port)
        assert await joining.find_roots(there, (), mark=0, timeout_s=60) == (ca.root.der,)
    assert await joining.find_roots(there, (b"installed",), mark=0, timeout_s=60) == (b"installed",)
    assert await joining.introduce(b"csr", REGISTRATION, GREETING) == Enrol(
        token=text, csr=b"csr", registration=REGISTRATION
    )
    assert (str(joining.workload), joining.trust_domain) == ("shop/web", TRUST_DOMAIN)
    assert text not in repr(joining)
    assert not joining.is_repeatable
    assert not joining.can_heal


async def test_a_pod_reads_roots_and_token_anew_each_time(tmp_path: Path) -> None:
    ca, joining = LittleCA(), by_pod(tmp_path)
    for text in ("first", "second\n"):
        joining.token_file.write_text(text)
        joining.trust_file.write_bytes(ca.roots_pem)
        assert await joining.find_roots(NOBODY, (b"installed",), mark=0, timeout_s=60) == (ca.root.der,)
        assert await joining.introduce(b"csr", REGISTRATION, GREETING) == EnrolPod(
            token=text.strip(), csr=b"csr", registration=REGISTRATION
        )
        ca.lose_everything()
    assert joining.is_repeatable


async def test_a_token_that_is_not_there_yet_can_be_had_later(tmp_path: Path) -> None:
    joining = by_pod(tmp_path)
    with pytest.raises(UnavailableError, match="service account token"):
        await joining.introduce(b"csr", REGISTRATION, GREETING)
    joining.token_file.write_text("\n")
    with pytest.raises(UnavailableError, match="empty"):
        await joining.introduce(b"csr", REGISTRATION, GREETING)


def test_a_trust_file_without_roots_or_with_too_many_trusts_nobody(tmp_path: Path) -> None:
    file, ca = tmp_path / "roots.pem", LittleCA()
    with pytest.raises(UnavailableError, match="trust's file"):
        read_roots(file)
    for content in (b"", b"no certificate", ca.roots_pem[:100], ca.roots_pem * (MAX_ROOTS + 1)):
        file.write_bytes(content)
        with pytest.raises(UnavailableError):
            read_roots(file)
    other = LittleCA()
    file.write_bytes(ca.roots_pem + other.roots_pem)
    assert read_roots(file) == (ca.root.der, other.root.der)
