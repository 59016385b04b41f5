"""What a sidecar outside Kubernetes shows: its join token and a key, later the key. With a real CA: ``tests/e2e``."""

from __future__ import annotations

import time

import msgspec
import pytest

from shared.model.errors import ProtocolError, UnavailableError
from shared.model.identity.identity import Identity, IdentityKind, Workload
from shared.model.trust.join_token import parse_join_token
from shared.model.trust.renewal import format_nonce
from shared.model.wire.messages import Enrol, Registration, Renew, Welcome
from sidecar.control.joining import Greeting
from sidecar.control.renewing import ByRenewal
from sidecar.credential.credential import ClockError, CredentialError, make_key_request
from sidecar.credential.renewal_key import RenewalKey, begin_renewal_key
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA

REGISTRATION = Registration(instance="one", version="0", addresses=(), tunnel_port=15008, capture="listeners")
NOBODY = ("127.0.0.1", 1)
IDENTITY = Identity(
    trust_domain=TRUST_DOMAIN,
    workload=Workload(namespace="shop", service_account="web"),
    kind=IdentityKind.SIDECAR,
)


def greet(*, protocol: int = 2, nonce: str | None = None) -> Greeting:
    return Greeting(protocol=protocol, nonce=nonce, server_certificate=b"server")


async def test_it_shows_the_token_and_offers_a_key_until_the_ca_has_that() -> None:
    async with LittleCA().serving() as ca:
        text = ca.make_token("shop/web")
        token = parse_join_token(text)
        joining = ByRenewal(begin_renewal_key(token, instance="one", directory=None), token)
        there = (ca.host, ca.port)
        assert await joining.find_roots(there, (), mark=0, timeout_s=30) == (ca.root.der,)
    assert (str(joining.workload), joining.trust_domain, joining.can_heal) == ("shop/web", TRUST_DOMAIN, False)
    first = await joining.introduce(b"csr", REGISTRATION, greet())
    assert isinstance(first, Enrol) and first.token == text and first.renewal is not None
    old = await joining.introduce(b"csr", REGISTRATION, greet(protocol=1))
    assert old == Enrol(token=text, csr=b"csr", registration=REGISTRATION)
    await joining.renewal.keep(grace_s=60, roots=(b"root",))
    assert joining.can_heal
    assert await joining.find_roots(NOBODY, (), mark=0, timeout_s=1) == (b"root",)
    assert await joining.find_roots(NOBODY, (b"installed",), mark=0, timeout_s=1) == (b"installed",)
    await joining.keep_roots((b"root", b"next"))
    assert await joining.find_roots(NOBODY, (), mark=0, timeout_s=1) == (b"root", b"next")
    then = await joining.introduce(b"csr", REGISTRATION, greet(nonce=format_nonce(bytes(32))))
    assert isinstance(then, Renew)


async def test_a_key_isnt_used_towards_an_older_ca_or_without_a_nonce() -> None:
    token = parse_join_token(LittleCA().make_token("shop/web"))
    key = begin_renewal_key(token, instance="one", directory=None)
    joining = ByRenewal(RenewalKey(key.kept, None, is_known=True), None)
    with pytest.raises(UnavailableError, match=r"0\.1"):
        await joining.introduce(b"csr", REGISTRATION, greet(protocol=1))
    with pytest.raises(ProtocolError):
        await joining.introduce(b"csr", REGISTRATION, greet())
    assert joining.renewal.kept.following is None


async def test_a_renewal_that_was_lost_isnt_answered_by_a_resumption() -> None:
    """As where the clock was ahead: the certificate seemed to have ended, and hasn't."""
    ca = LittleCA()
    token = parse_join_token(ca.make_token("shop/web"))
    key = begin_renewal_key(token, instance="one", directory=None)
    joining = ByRenewal(RenewalKey(key.kept, None, is_known=True), None)
    resumed = Welcome(
        trust_domain=TRUST_DOMAIN, namespace="shop", service_account="web", chain=(), bundle=ca.bundle,
        state=ca.state("shop"), grace_s=60,
    )  # fmt: skip
    joined = msgspec.structs.replace(resumed, chain=ca.issue(make_key_request().csr, IDENTITY))
    uses = []
    for welcome in (resumed, joined, resumed):
        message = await joining.introduce(b"csr", REGISTRATION, greet(nonce=format_nonce(bytes(32))))
        assert isinstance(message, Renew)
        uses.append((message.key, joining.renewal.kept.following))
        await joining.keep(welcome)
    assert uses[0] == uses[1], "asked for again, with the same successor"
    assert uses[2][0] != uses[1][0]


@pytest.mark.parametrize("ahead_s", [-3_600.0, 7 * 3_600.0])
async def test_while_the_clock_is_wrong_the_same_key_asks_again(
    ahead_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = LittleCA()
    key = begin_renewal_key(parse_join_token(ca.make_token("shop/web")), instance="one", directory=None)
    joining = ByRenewal(RenewalKey(key.kept, None, is_known=True), None)
    chain = ca.issue(make_key_request().csr, IDENTITY)
    welcome = Welcome(
        trust_domain=TRUST_DOMAIN, namespace="shop", service_account="web", chain=chain, bundle=ca.bundle,
        state=ca.state("shop"), grace_s=60,
    )  # fmt: skip
    uses, now = [], time.time()
    monkeypatch.setattr(time, "time", lambda: now + ahead_s)
    for _ in range(2):
        message = await joining.introduce(b"csr", REGISTRATION, greet(nonce=format_nonce(bytes(32))))
        assert isinstance(message, Renew)
        uses.append((message.key, joining.renewal.kept.following))
        with pytest.raises(ClockError):
            await joining.keep(welcome)
    monkeypatch.setattr(time, "time", lambda: now)
    await joining.keep(welcome)
    assert uses[0] == uses[1] and joining.renewal.kept.key == uses[0][1]
    unreadable = msgspec.structs.replace(welcome, chain=(b"garbage",))
    await joining.introduce(b"csr", REGISTRATION, greet(nonce=format_nonce(bytes(32))))
    with pytest.raises(CredentialError):
        await joining.keep(unreadable)
