"""Messages between sidecar and CA: read back as written, strict in every depth, one kind of fault."""

from __future__ import annotations

import contextlib
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.identity.foreign import ForeignDomain
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import CodeCheck, LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, DraftVerdict, Origin
from shared.model.policy.modes import make_modes
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import (
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PolicyDraft,
    PortRange,
    Requirement,
    Rule,
    WorkloadCode,
    WorkloadLabels,
)
from shared.model.trust.bundle import TrustBundle
from shared.model.wire import messages
from shared.model.wire.messages import (
    FromCA,
    FromSidecar,
    decode_from_ca,
    decode_from_sidecar,
    encode_message,
    express_in,
)
from tests.shared.model.policy.records import make_record

REGISTRATION = messages.Registration(
    instance="web-1", version="0.1.0", addresses=("198.18.0.2",), tunnel_port=15008, capture="redirect"
)
BUNDLE = TrustBundle(
    trust_domain="touchmark.local", sequence=2, roots=(b"\x00root",), issuers=(b"issuer",), distrusted=("a" * 64,)
)
STATE = NamespaceState(
    namespace="shop",
    version=4,
    rules=(
        Rule(
            name="r",
            action=Action.ALLOW,
            workloads=("db",),
            programs=(Program(digest="b" * 64),),
            peers=(Peer(namespace="web"), Peer(unidentified=True, cidrs=("198.18.0.0/15",))),
            ports=(PortRange(first=1, last=2),),
        ),
    ),
    approvals=(Approval(service_account="db", program=Program(digest="b" * 64, main="none"), weak=True),),
    labels=(WorkloadLabels(service_account="db", labels={"team": "red"}),),
)
FOREIGN = ForeignDomain(trust_domain="partner.example", roots=(b"\x00partner",))
CONNECTION = messages.LiveConnection(
    connection="c1",
    tunnel="t1",
    direction="egress",
    source="198.18.0.2:1",
    destination="198.18.0.3:2",
    source_workload="shop/web",
    destination_workload="shop/db",
    source_program="",
    destination_program="",
    transport="tunnel",
    would_deny=False,
    reason="same_group",
    since=1.0,
    bytes_sent=1,
    bytes_received=2,
)

FROM_SIDECAR: list[FromSidecar] = [
    messages.Enrol(token="t", csr=b"\x30\x00", registration=REGISTRATION),
    messages.EnrolPod(token="t", csr=b"\x30\x00", registration=REGISTRATION),
    messages.Resume(registration=REGISTRATION, installed_sequence=3),
    messages.Renew(csr=b"csr", key=b"key", following=b"next", signature=b"signed", registration=REGISTRATION),
    messages.CertificateRequest(request=1, csr=b"csr", program=Program(digest="a" * 64)),
    messages.BundleInstalled(sequence=3),
    messages.NamespaceInstalled(namespace="shop", version=4),
    messages.Lookup(address="198.18.0.3"),
    messages.Subscribe(namespace="shop"),
    messages.Decisions(batch=1, records=(make_record(),), lost=2),
    messages.ConnectionsReport(request=1, connections=(CONNECTION,)),
    messages.ProgramSeen(
        program=Program(digest="a" * 64), path="/srv/web", package="web 1 (apk)", container="c" * 64, parents=("/init",)
    ),
]
FROM_CA: list[FromCA] = [
    messages.Welcome(
        trust_domain="td",
        namespace="shop",
        service_account="web",
        chain=(b"leaf",),
        bundle=BUNDLE,
        state=STATE,
        foreign=(FOREIGN,),
        ca_version="0.2.0",
        time_ms=1,
        grace_s=60,
    ),
    messages.Refusal(code="refused", message="no"),
    messages.CertificateIssued(request=1, chain=(b"leaf", b"issuer")),
    messages.CertificateRefused(request=1, reason="program_not_approved", message="no"),
    messages.BundleChanged(bundle=BUNDLE),
    messages.ForeignTrustChanged(domains=(FOREIGN,)),
    messages.NamespaceChanged(state=STATE),
    messages.DirectoryEntry(address="198.18.0.3", namespace="shop", service_account="db", tunnel_port=15008),
    messages.DecisionsStored(batch=1),
    messages.ConnectionsQuery(request=1, limit=10),
    messages.Reissue(spread_s=30.0),
]


def kind(message: object) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", FROM_SIDECAR, ids=kind)
def test_a_sidecars_message_is_read_back_as_it_was_written(message: FromSidecar) -> None:
    assert decode_from_sidecar(encode_message(message)) == message


@pytest.mark.parametrize("message", FROM_CA, ids=kind)
def test_a_message_of_the_ca_is_read_back_as_it_was_written(message: FromCA) -> None:
    assert decode_from_ca(encode_message(message)) == message


def test_these_tests_know_every_message() -> None:
    assert {type(each) for each in FROM_SIDECAR} == set(typing.get_args(FromSidecar))
    assert {type(each) for each in FROM_CA} == set(typing.get_args(FromCA))


def test_neither_side_takes_the_others_messages() -> None:
    for to_ca in FROM_SIDECAR:
        with pytest.raises(msgspec.DecodeError):
            decode_from_ca(encode_message(to_ca))
    for to_sidecar in FROM_CA:
        with pytest.raises(msgspec.DecodeError):
            decode_from_sidecar(encode_message(to_sidecar))


def mappings(plain: Any) -> list[dict[str, Any]]:
    if isinstance(plain, dict):
        return [plain, *(inner for value in plain.values() for inner in mappings(value))]
    if isinstance(plain, list):
        return [inner for value in plain for inner in mappings(value)]
    return []


@pytest.mark.parametrize("message", [*FROM_SIDECAR, *FROM_CA], ids=kind)
def test_an_unknown_field_is_refused_at_every_depth(message: FromSidecar | FromCA) -> None:
    """An unknown field could be the one that narrows a rule: it is never passed over."""
    decode: Any = decode_from_sidecar if message in FROM_SIDECAR else decode_from_ca
    plain = msgspec.json.decode(encode_message(message))
    for mapping in mappings(plain):
        if mapping == {"team": "red"} or set(mapping) == {"digest", "main"}:
            continue  # Labels are free; a Program is a dataclass, which has no other fields to narrow it.
        mapping["unheard_of"] = 1
        with pytest.raises(msgspec.ValidationError):
            decode(msgspec.json.encode(plain))
        del mapping["unheard_of"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"type":"unheard_of"}',
        b'{"type":"lookup"}',
        b'{"type":"lookup","address":1}',
        b'{"type":"bundle_installed","sequence":"3"}',
        b'{"type":"enrol","token":"t","csr":"%","registration":{}}',
        b'{"type":"certificate_request","request":1,"csr":"","program":{"digest":"x"}}',
        b"\xff",
        b'{"type":"lookup","address":"\xff"}',
        b'{"type":"lookup","address":"\\ud800"}',
        b'{"type":"lookup","address":' + b"[" * 100_000,
    ],
)
def test_rubbish_has_one_kind_of_fault(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_sidecar(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"%s"}',
        b'{"type":"lookup","address":"","%s":1}',
        b'{"type":"decisions","batch":1,"records":[{"phase":"%s"}]}',
    ],
)
def test_of_what_isnt_known_a_fault_quotes_little(text: bytes) -> None:
    """It is logged and answered, and anybody may send eight megabytes."""
    with pytest.raises(msgspec.DecodeError) as caught:
        decode_from_sidecar(text % (b"x" * 1_000_000))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "state",
    [
        b'{"namespace":"NO"}',
        b'{"namespace":"shop","rules":[{"name":"","action":"allow"}]}',
        b'{"namespace":"shop","rules":[{"name":"r","action":"allow","ports":[{"first":2,"last":1}]}]}',
        b'{"namespace":"shop","approvals":[{"service_account":"a","program":{"digest":"x"}}]}',
    ],
)
def test_a_value_that_cant_be_is_a_fault_of_the_same_kind(state: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_from_ca(b'{"type":"namespace_changed","state":' + state + b"}")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (decode_from_sidecar, decode_from_ca):
        with contextlib.suppress(msgspec.DecodeError):
            decode(data)


def test_a_sidecar_of_protocol_1_gets_no_foreign_peer_and_no_rule_that_would_match_every_peer_without_it() -> None:
    foreign, known = Peer(spiffe_id="spiffe://partner.example/*"), Peer(namespace="web")

    def rule(name: str, *peers: Peer, action: Action = Action.ALLOW) -> Rule:
        return Rule(name=name, action=action, peers=peers)

    state = NamespaceState(
        namespace="shop",
        version=4,
        requires=(Requirement.MATCHING_ADDRESS,),
        rules=(
            rule("mixed", foreign, known),
            rule("foreign", foreign),
            rule("deny", foreign, foreign, action=Action.DENY),
            rule("all"),
            rule("known", known),
        ),
    )
    told = msgspec.structs.replace(state, rules=(rule("mixed", known), rule("all"), rule("known", known)), requires=())
    assert express_in(1, messages.NamespaceChanged(state=state)) == messages.NamespaceChanged(state=told)
    welcome = messages.Welcome(
        trust_domain="td", namespace="shop", service_account="web", chain=(), bundle=BUNDLE, state=state,
        foreign=(FOREIGN,), ca_version="0.2.0", time_ms=1, grace_s=60,
    )  # fmt: skip
    assert express_in(1, welcome) == msgspec.structs.replace(
        welcome, state=told, foreign=(), ca_version="", time_ms=0, grace_s=0
    )
    assert express_in(1, messages.ForeignTrustChanged(domains=(FOREIGN,))) is None


def test_protocol_1_knows_no_renewal_keys() -> None:
    enrol = messages.Enrol(token="t", csr=b"csr", registration=REGISTRATION, renewal=b"key")
    assert decode_from_sidecar(encode_message(enrol)) == enrol
    assert express_in(1, enrol) == msgspec.structs.replace(enrol, renewal=None)
    assert b"renewal" not in encode_message(msgspec.structs.replace(enrol, renewal=None))
    renew = messages.Renew(csr=b"", key=b"", following=b"", signature=b"", registration=REGISTRATION)
    assert express_in(1, renew) is None


def test_a_ca_of_protocol_1_isnt_told_the_sidecars_time() -> None:
    """It refuses fields that it doesn't know."""
    timed = msgspec.structs.replace(REGISTRATION, time_ms=1_700_000_000_000)
    resume = messages.Resume(registration=timed)
    assert decode_from_sidecar(encode_message(resume)) == resume
    for first in (
        resume,
        messages.Enrol(token="t", csr=b"", registration=timed),
        messages.EnrolPod(token="t", csr=b"", registration=timed),
    ):
        told = express_in(1, first)
        assert isinstance(told, type(first))
        assert told.registration == REGISTRATION
        assert b"time_ms" not in encode_message(told)


def test_protocol_1_knows_nothing_of_loaded_code() -> None:
    """Neither end is sent a field that it would refuse, and a sidecar learns a reason that it knows."""
    code = LoadedCode(objects=(LoadedObject(path="/lib/c", digest="1" * 64),), anonymous=True)
    approval = Approval(service_account="db", program=Program(digest="b" * 64), code=CodeCheck.ENFORCE, jit=True)
    listed = WorkloadCode(service_account="db", digests=("1" * 64,))
    state = NamespaceState(namespace="shop", approvals=(approval,), code=(listed,))
    plain = msgspec.structs.replace(approval, code=None, jit=False)
    told = messages.NamespaceChanged(state=NamespaceState(namespace="shop", approvals=(plain,)))
    assert express_in(1, messages.NamespaceChanged(state=state)) == told
    asked = messages.CertificateRequest(request=1, csr=b"c", evidence=messages.ProgramEvidence(path="/a", code=code))
    asked_before = messages.CertificateRequest(request=1, csr=b"c", evidence=messages.ProgramEvidence(path="/a"))
    assert express_in(1, asked) == asked_before
    assert decode_from_sidecar(encode_message(asked)) == asked
    refused = messages.CertificateRefused(request=1, reason=Reason.CODE_NOT_APPROVED.value, message="m")
    refused_before = messages.CertificateRefused(request=1, reason=Reason.PROGRAM_NOT_APPROVED.value, message="m")
    assert express_in(1, refused) == refused_before
    record = make_record()
    with_code = msgspec.structs.replace(record, process=msgspec.structs.replace(record.process, code=code))
    decisions = messages.Decisions(batch=1, records=(with_code,))
    assert express_in(1, decisions) == messages.Decisions(batch=1, records=(record,))
    assert decode_from_sidecar(encode_message(decisions)) == decisions


def test_protocol_1_knows_nothing_of_drafts() -> None:
    state = NamespaceState(namespace="shop", version=2)
    drafted = messages.NamespaceChanged(state=msgspec.structs.replace(state, draft=PolicyDraft(number=1)))
    assert decode_from_ca(encode_message(drafted)) == drafted
    assert express_in(1, drafted) == messages.NamespaceChanged(state=state)
    verdict = DraftVerdict(answer=Answer.DENY, would_deny=False, reason=Reason.NO_RULE, rule="", drafts=("shop@1",))
    decisions = messages.Decisions(batch=1, records=(make_record(draft=verdict),))
    assert decode_from_sidecar(encode_message(decisions)) == decisions
    assert express_in(1, decisions) == messages.Decisions(batch=1, records=(make_record(),))


def test_a_ca_of_protocol_1_isnt_told_of_programs_that_were_seen() -> None:
    seen = messages.ProgramSeen(program=Program(digest="a" * 64))
    assert (messages.express_in(1, seen), messages.express_in(2, seen)) == (None, seen)


def test_a_sidecar_of_protocol_1_gets_no_more_rules_than_it_takes_and_none_is_loosened() -> None:
    def told(*rules: Rule) -> tuple[Rule, ...]:
        message = express_in(1, messages.NamespaceChanged(state=NamespaceState(namespace="shop", rules=rules)))
        assert isinstance(message, messages.NamespaceChanged)
        return message.state.rules

    allows = tuple(Rule(name=f"a{n}", action=Action.ALLOW) for n in range(900))
    denies = tuple(Rule(name=f"d{n}", action=Action.DENY) for n in range(1001))
    assert told(*allows, *denies[:100]) == (*allows, *denies[:100])
    assert told(*allows, *denies[:200]) == (*allows[:800], *denies[:200])
    everything = told(*denies, *allows)
    assert {(rule.action, rule.direction) for rule in everything} == {
        (Action.DENY, Direction.INGRESS),
        (Action.DENY, Direction.EGRESS),
    }
    assert not any(rule.peers or rule.ports or rule.workloads for rule in everything)


def test_a_ca_of_protocol_1_is_told_newer_reasons_by_older_names() -> None:
    for new, old in (
        (Reason.FOREIGN_NOT_ALLOWED, Reason.NO_RULE),
        (Reason.TRUST_DOMAIN_UNKNOWN, Reason.PEER_UNTRUSTED),
        (Reason.MTLS_REQUIRED, Reason.HANDSHAKE_FAILED),
        (Reason.SHUTTING_DOWN, Reason.OVERLOADED),
        (Reason.INTERNAL_ERROR, Reason.PROTOCOL_ERROR),
        (Reason.DENY_RULE, Reason.DENY_RULE),
    ):
        decisions = messages.Decisions(batch=1, records=(msgspec.structs.replace(make_record(), reason=new),))
        told = express_in(1, decisions)
        assert isinstance(told, messages.Decisions)
        assert told.records[0].reason is old


def test_a_ca_of_the_first_protocol_isnt_told_of_services_and_starts() -> None:
    record = make_record()
    told = msgspec.structs.replace(record, service="shop/db:5432", has_started=True)
    assert express_in(1, messages.Decisions(batch=1, records=(told,))) == messages.Decisions(batch=1, records=(record,))


def test_a_ca_of_the_first_protocol_isnt_told_where_a_process_comes_from() -> None:
    record = make_record()
    told = msgspec.structs.replace(record, process=msgspec.structs.replace(record.process, origin=Origin.EXEC))
    assert express_in(1, messages.Decisions(batch=1, records=(told,))) == messages.Decisions(batch=1, records=(record,))


def test_protocol_1_is_told_the_readers_own_mode_and_where_it_is_unknown_the_strictest() -> None:
    state = NamespaceState(namespace="shop", workload_modes=make_modes({"web": Mode.EXPLICIT}))
    message = messages.NamespaceChanged(state=state)
    assert messages.express_in(2, message) == message
    web = Workload(namespace="shop", service_account="web")
    assert [messages.told_mode(protocol, message, web) for protocol in (1, 2)] == [Mode.EXPLICIT, None]
    assert messages.told_mode(1, messages.NamespaceChanged(state=NamespaceState(namespace="shop")), web) is None
    for reader, mode in ((None, Mode.EXPLICIT), ("web", Mode.EXPLICIT), ("db", Mode.PERMISSIVE)):
        workload = None if reader is None else Workload(namespace="shop", service_account=reader)
        told = messages.express_in(1, message, reader=workload)
        assert told == messages.NamespaceChanged(state=NamespaceState(namespace="shop", mode=mode))
