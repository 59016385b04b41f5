"""A client certificate proves a cluster's user by a signed challenge (``ca.authenticate.user_certificate``)."""

from __future__ import annotations

import dataclasses
import datetime

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.authenticate.user_certificate import CHALLENGE_LIFETIME_S, UserCertificates
from ca.kubernetes.view import ClusterUser
from cli.admin.credentials import Credentials, sign
from shared.model.errors import InputError, NotAuthenticatedError
from shared.model.trust.admin_access import decode_part
from tests.ca.running import ShiftedClock
from tests.kubernetes.harness import pki

CLUSTER = pki.ClusterCA()


class Doorkeeper:
    """``UserCertificates`` with roots and a clock that the test changes."""

    def __init__(self, roots: bytes = CLUSTER.certificate) -> None:
        self.roots = roots
        self.clock = ShiftedClock()
        self.certificates = UserCertificates(read_roots=self.read, clock=self.clock)

    async def read(self) -> bytes:
        return self.roots

    def challenge(self) -> bytes:
        return decode_part(self.certificates.make_challenge().challenge)

    async def admit(self, pair: pki.KeyPair) -> ClusterUser:
        return await self.certificates.authenticate(sign(as_credentials(pair), self.challenge()))


def as_credentials(pair: pki.KeyPair) -> Credentials:
    return Credentials(certificate=pair.certificate, key=pair.key)


def issue(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None,
    *,
    names: tuple[str, ...] = ("olga",),
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    issuer: pki.KeyPair = CLUSTER.own,
) -> pki.KeyPair:
    """A certificate as people make them, with as few extensions as clusters' own tools write."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(issuer.certificate)
    signer = load_pem_private_key(issuer.key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pki.KeyPair(certificate=builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM), key=pem)


async def test_the_common_name_is_the_user_and_the_organisations_are_its_groups() -> None:
    user = await Doorkeeper().admit(CLUSTER.issue("olga", groups=["dev", "ops"]))
    assert user == ClusterUser(name="olga", groups=("dev", "ops", "system:authenticated"))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
async def test_keys_of_both_kinds_that_clusters_use(kind: str) -> None:
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    assert (await Doorkeeper().admit(issue(key))).name == "olga"


async def test_one_of_several_roots_is_enough() -> None:
    door = Doorkeeper(pki.ClusterCA("another").certificate + CLUSTER.certificate)
    assert (await door.admit(issue())).name == "olga"


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (pki.ClusterCA().issue("olga"), "doesn't hold"),
        (issue(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "doesn't hold"),
        (issue(purposes=()), "doesn't hold"),
        (issue(names=()), "names no user"),
        (issue(names=("olga", "root")), "names no user"),
        # What a user's certificate has signed is no user.
        (issue(issuer=CLUSTER.issue("olga")), "doesn't hold"),
    ],
    ids=["of-another-cluster", "a-server", "no-purpose", "no-name", "two-names", "issued-by-a-user"],
)
async def test_other_certificates_are_nobodys(pair: pki.KeyPair, message: str) -> None:
    with pytest.raises(NotAuthenticatedError, match=message):
        await Doorkeeper().admit(pair)


async def test_a_certificate_that_a_user_signed_is_nobodys_with_that_users_in_its_chain() -> None:
    user = CLUSTER.issue("olga")
    forged = issue(names=("root",), issuer=user)
    with pytest.raises(NotAuthenticatedError, match="doesn't hold"):
        await Doorkeeper().admit(dataclasses.replace(forged, certificate=forged.certificate + user.certificate))


def issue_authority(*purposes: x509.ObjectIdentifier, issuer: pki.KeyPair | None = None) -> pki.KeyPair:
    """An authority below another one; a root without ``issuer``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root" if issuer is None else "below")])
    signer = key if issuer is None else load_pem_private_key(issuer.key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else x509.load_pem_x509_certificate(issuer.certificate).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pki.KeyPair(certificate=builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM), key=pem)


async def test_an_authoritys_purposes_bound_those_of_what_it_issues() -> None:
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH

    async def admit(root: pki.KeyPair, below: pki.KeyPair) -> str:
        chain = issue(issuer=below)
        chain = dataclasses.replace(chain, certificate=chain.certificate + below.certificate)
        return (await Doorkeeper(root.certificate).admit(chain)).name

    root, narrow = issue_authority(), issue_authority(server)
    for purposes in ((), (client, server), (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)):
        assert await admit(root, issue_authority(*purposes, issuer=root)) == "olga"
    for above, below in ((root, issue_authority(server, issuer=root)), (narrow, issue_authority(issuer=narrow))):
        with pytest.raises(NotAuthenticatedError, match="isn't for client authentication"):
            await admit(above, below)


async def test_a_certificate_of_an_unknown_version_cannot_be_read() -> None:
    door = Doorkeeper()
    proof = sign(as_credentials(issue()), door.challenge())
    version = bytes.fromhex("a003020102")  # RFC 5280, 4.1: [0] EXPLICIT INTEGER, 2 for version 3.
    assert version in proof.chain[0]
    changed = proof.chain[0].replace(version, bytes.fromhex("a003020104"), 1)
    with pytest.raises(NotAuthenticatedError, match="can't be read"):
        await door.certificates.authenticate(msgspec.structs.replace(proof, chain=(changed,)))


async def test_an_expired_certificate_is_nobodys() -> None:
    door = Doorkeeper()
    door.clock.shift_s = 30 * 86_400.0
    with pytest.raises(NotAuthenticatedError, match="doesn't hold"):
        await door.admit(issue())


@pytest.mark.parametrize("roots", [b"", b"no certificate"])
async def test_where_the_api_server_takes_no_certificates_none_is_taken(roots: bytes) -> None:
    with pytest.raises(NotAuthenticatedError, match="takes no client certificates"):
        await Doorkeeper(roots).admit(issue())


async def test_a_certificate_without_its_key_is_nobodys() -> None:
    door, olga = Doorkeeper(), as_credentials(issue())
    stranger = dataclasses.replace(olga, key=issue().key)
    with pytest.raises(NotAuthenticatedError, match="isn't signed"):
        await door.certificates.authenticate(sign(stranger, door.challenge()))


async def test_a_challenge_is_this_cas_and_ends() -> None:
    door, olga = Doorkeeper(), as_credentials(issue())
    challenge = door.challenge()
    proof = sign(olga, challenge)
    assert (await door.certificates.authenticate(proof)).name == "olga"
    door.clock.shift_s = CHALLENGE_LIFETIME_S
    with pytest.raises(NotAuthenticatedError, match="has expired"):
        await door.certificates.authenticate(proof)
    later = challenge[:16] + bytes(8 * [0x7F]) + challenge[24:]
    for forged in (later, Doorkeeper().challenge(), b"", challenge[1:]):
        with pytest.raises(NotAuthenticatedError, match="isn't this CA's"):
            await door.certificates.authenticate(sign(olga, forged))


async def test_what_was_signed_for_another_challenge_does_not_serve() -> None:
    door, olga = Doorkeeper(), as_credentials(issue())
    old, challenge = sign(olga, door.challenge()), door.challenge()
    with pytest.raises(NotAuthenticatedError, match="isn't signed"):
        await door.certificates.authenticate(msgspec.structs.replace(old, challenge=challenge))


def test_a_key_that_cannot_be_used_is_said() -> None:
    with pytest.raises(InputError, match="neither RSA nor ECDSA"):
        sign(as_credentials(issue(ed25519.Ed25519PrivateKey.generate())), b"challenge")
    with pytest.raises(InputError, match="can't be used"):
        sign(Credentials(certificate=b"-", key=b"-"), b"challenge")
