"""A join token is spent by success only."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authenticate.join_token import authenticate_join_token
from shared.model.errors import RefusedError, TouchmarkError
from shared.model.trust.join_token import JoinToken
from tests.ca.founded import NOW, TRUST_DOMAIN, WEB, make_csr, opened, registration


async def test_mistakes_cost_no_token_and_a_replay_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        pin = core.authorities.root_pin
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=["198.18.0.2"], labels={}, expires=NOW + 60, now=NOW
        )

        def token(**other: str) -> JoinToken:
            values = {"secret": secret, "trust_domain": TRUST_DOMAIN, "root_pin": pin} | other
            return JoinToken(token_id=record.token_id, ca="127.0.0.1:1", workload=str(WEB), **values)

        good = registration("one", "198.18.0.2")
        mistakes = [
            (token(root_pin="0" * 64), make_csr(), good),
            (token(trust_domain="other.test"), make_csr(), good),
            (token(secret="x" * 43), make_csr(), good),
            (token(), b"no request", good),
            (token(), make_csr(), registration("one", "198.18.0.3")),
            (token(), make_csr(), registration("", "198.18.0.2")),
        ]
        for mistaken, csr, said in mistakes:
            with pytest.raises(TouchmarkError):
                await authenticate_join_token(core.store, mistaken, csr, said, root_pins={pin}, now=NOW)
        key = ec.generate_private_key(ec.SECP256R1())
        grant, sidecar = await authenticate_join_token(
            core.store, token(), make_csr(key), good, root_pins={pin}, now=NOW
        )
        assert sidecar.addresses == grant.addresses
        assert (grant.workload, grant.addresses, grant.instance) == (WEB, ("198.18.0.2",), "one")
        again = await authenticate_join_token(core.store, token(), make_csr(key), good, root_pins={pin}, now=NOW)
        assert again == (grant, sidecar), "the answer may have been lost: the same key gets the same again"
        with pytest.raises(RefusedError, match="spent"):
            await authenticate_join_token(core.store, token(), make_csr(), good, root_pins={pin}, now=NOW)
