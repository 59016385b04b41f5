"""A tunnel's handshake (``sidecar.tunnel.handshake``) over real sockets: what each side learns."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import pytest
from cryptography import x509

from shared.model.errors import VerificationError
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import TrustBundle, name_serial
from sidecar.tls.handshake import HandshakeError
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, Pair, identify, running_pair
from tests.sidecar.tls.test_handshake import make_tunnels


async def test_each_side_learns_the_others_identity_and_both_the_same_id() -> None:
    first, second = await make_tunnels(Mint())
    assert first.peer.identity == identify(SERVER, SERVER_PROGRAM)
    assert second.peer.identity == identify(CLIENT, CLIENT_PROGRAM)
    assert first.id == second.id
    assert len(first.id) == 16
    first.close()
    second.close()


async def test_the_client_refuses_a_server_of_another_ca() -> None:
    with pytest.raises(HandshakeError) as caught:
        await make_tunnels(Mint(), server=Mint())
    assert caught.value.reason == Reason.PEER_UNTRUSTED


class Careless(Mint):
    """A CA whose bundle lists an issuer that no root of it has signed."""

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle, with the root of another CA."""
        return msgspec.structs.replace(super().bundle, roots=(Mint().root.der,))


async def test_an_issuer_that_no_root_of_the_bundle_signed_vouches_for_nobody() -> None:
    """OpenSSL takes the bundle's issuers as ends of a chain; who signed them is verified after the handshake."""
    with pytest.raises(VerificationError) as caught:
        await make_tunnels(Careless())
    assert caught.value.reason == Reason.PEER_UNTRUSTED


async def _exchange(pair: Pair) -> None:
    count = len(pair.client.records)
    reader, writer = await pair.connect()
    writer.write(bytes(300_000))
    writer.write_eof()
    async with asyncio.timeout(120):
        assert await reader.read(-1) == bytes(300_000)
    writer.close()
    await until(lambda: len(pair.client.records) > count and len(pair.server.records) > count)
    await until(lambda: len(pair.client.sidecar.connector) == 1)
    pair.client.sidecar.connector.close()  # No idle tunnel is left.


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read(-1)
    writer.write(data)
    await writer.drain()
    writer.close()


@pytest.mark.usefixtures("engine")
async def test_a_tunnel_that_rests_on_an_earlier_one_carries_and_records_the_same() -> None:
    async with running_pair(_echo) as pair:
        for _ in range(2):
            await _exchange(pair)
        assert pair.tunnels_accepted == 2
        for secrets in (pair.client.sidecar.connector.secrets, pair.server.sidecar.secrets):
            assert (secrets.full, secrets.resumed) == (1, 1)
        for records in (pair.client.records, pair.server.records):
            whole, resumed = (
                (
                    each.answer, each.reason, each.rule, each.ending, each.transport, each.bytes_sent,
                    msgspec.structs.replace(each.source, address=""), each.destination,
                )
                for each in records
            )  # fmt: skip
            assert whole == resumed
            assert str(identify(CLIENT, CLIENT_PROGRAM)) == resumed[6].identity
            assert str(identify(SERVER, SERVER_PROGRAM)) == resumed[7].identity


async def test_a_tunnel_to_a_peer_that_was_distrusted_since_is_not_made() -> None:
    """By another bundle, which secrets are bound to: a whole handshake is made, and refused."""
    async with running_pair(_echo) as pair:
        await _exchange(pair)
        serial = x509.load_der_x509_certificate(
            pair.server.credentials.by_program[SERVER_PROGRAM].chain[0]
        ).serial_number
        for side in (pair.client, pair.server):
            side.trust.install(msgspec.structs.replace(pair.mint.bundle, sequence=2, distrusted=(name_serial(serial),)))
        reader, writer = await pair.connect()
        async with asyncio.timeout(120):
            with suppress(ConnectionError):
                assert await reader.read(-1) == b""
        writer.close()
        await until(lambda: len(pair.client.records) == 2)
        assert pair.client.records[1].reason == Reason.PEER_DISTRUSTED
        assert pair.client.sidecar.connector.secrets.resumed == 0
