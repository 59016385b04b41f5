"""Host names in rules: what may be written, what they match, what older peers are told."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import pytest

from shared.model.errors import DocumentError, InputError
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord, PartyRecord
from shared.model.policy.documents import MeshPolicyDocument, format_documents, parse_documents
from shared.model.policy.evaluate import Party, Verdict, compile_namespace, evaluate
from shared.model.policy.host_name import MAX_HOSTS, can_mean, check_host
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import compile_as, replay
from shared.model.policy.rules import (
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PortRange,
    Rule,
    list_hosts,
)
from shared.model.wire import messages
from tests.shared.model.policy.records import make_record

API, OTHER = "api.example.com", "other.example.net"
PROGRAM = Program(digest="a" * 64)
WEB = Workload(namespace="shop", service_account="web")
SOURCE = Party(workload=WEB, program=PROGRAM)


def allow(*hosts: str, **parts: Any) -> Rule:
    """An egress rule for hosts."""
    peers = (Peer(unidentified=True, hosts=hosts),)
    rule = Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=peers)
    return msgspec.structs.replace(rule, **parts)


def make_state(*rules: Rule, mode: Mode = Mode.EXPLICIT) -> NamespaceState:
    approvals = (Approval(service_account="web", program=PROGRAM),)
    return NamespaceState(namespace="shop", version=1, mode=mode, rules=rules, approvals=approvals)


def decide(destination: Party, *rules: Rule, port: int = 443, mode: Mode = Mode.EXPLICIT) -> Verdict:
    return evaluate(
        direction=Direction.EGRESS,
        source=SOURCE,
        destination=destination,
        port=port,
        source_policy=compile_namespace(make_state(*rules, mode=mode)),
        destination_policy=None,
    )


def outside(address: str = "192.0.2.7", *hosts: str, why: Reason | None = None) -> Party:
    return Party(address=ipaddress.ip_address(address), hosts=hosts, why_unidentified=why)


def test_a_rule_matches_an_address_that_its_name_has_and_no_other() -> None:
    verdict = decide(outside("192.0.2.7", OTHER, API), allow("first.example"), allow(API, name="second"))
    assert (verdict.allowed, verdict.rule) == (True, "shop/second")
    assert decide(outside("192.0.2.7", OTHER), allow(API)).reason is Reason.EGRESS_NOT_ALLOWED
    assert decide(outside("192.0.2.7"), allow(API)).reason is Reason.EGRESS_NOT_ALLOWED
    assert decide(outside("2001:db8::7", API), allow(API)).allowed


def test_ports_and_programs_narrow_it_as_in_other_rules() -> None:
    ports = (PortRange(first=443, last=443),)
    assert not decide(outside("192.0.2.7", API), allow(API, ports=ports), port=80).allowed
    others = allow(API, workloads=("web",), programs=(Program(digest="b" * 64),))
    assert not decide(outside("192.0.2.7", API), others).allowed


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1", "224.0.0.1"]
)
def test_no_name_opens_a_way_to_the_nodes_credentials_or_neighbourhood(address: str) -> None:
    assert not decide(outside(address, API), allow(API)).allowed


def test_what_a_name_can_mean() -> None:
    assert can_mean(ipaddress.ip_address("192.0.2.7"))
    assert not can_mean(ipaddress.ip_address("0.0.0.0"))


def test_a_member_of_the_mesh_is_no_stranger_whatever_its_address_is_called() -> None:
    listed = Party(
        address=ipaddress.ip_address("192.0.2.7"), hosts=(API,), listed=Workload(namespace="b", service_account="t")
    )
    verdict = evaluate(
        direction=Direction.EGRESS,
        source=SOURCE,
        destination=listed,
        port=443,
        source_policy=compile_namespace(make_state(allow(API))),
        destination_policy=compile_namespace(NamespaceState(namespace="b")),
    )
    assert not verdict.allowed
    assert not decide(Party(hosts=(API,), is_pending=True), allow(API)).allowed, "a foreign peer perhaps"


def test_a_name_that_couldnt_be_resolved_is_the_reason_unless_a_rule_matches() -> None:
    unknown = outside(why=Reason.HOST_NOT_RESOLVED)
    assert decide(unknown, allow(API)).reason is Reason.HOST_NOT_RESOLVED
    marked = decide(unknown, allow(API), mode=Mode.PERMISSIVE)
    assert (marked.allowed, marked.would_deny, marked.reason) == (True, True, Reason.HOST_NOT_RESOLVED)
    by_address = allow(API, peers=(Peer(unidentified=True, cidrs=("192.0.2.0/24",)),))
    assert decide(unknown, by_address).allowed


def test_a_name_that_couldnt_be_resolved_is_no_reason_where_no_rule_names_one_for_the_connection() -> None:
    unknown = outside(why=Reason.HOST_NOT_RESOLVED)
    elsewhere = allow(API, ports=(PortRange(first=80, last=80),))
    others = allow(API, workloads=("web",), programs=(Program(digest="b" * 64),))
    for rules in ((), (elsewhere,), (others,)):
        assert decide(unknown, *rules).reason is Reason.EGRESS_NOT_ALLOWED
    assert decide(unknown, elsewhere, others, allow(API, name="any")).reason is Reason.HOST_NOT_RESOLVED


def test_a_replay_goes_by_the_names_of_the_record() -> None:
    destination = PartyRecord(address="192.0.2.7:443", hosts=(API,))
    source = PartyRecord(address="198.18.0.2:40000", workload="shop/web", program=str(PROGRAM))
    record = make_record(source=source, destination=destination, port=443)
    assert msgspec.json.decode(msgspec.json.encode(record), type=DecisionRecord) == record
    assert replay(record, {"shop": compile_as(make_state(allow(API)), Mode.EXPLICIT)}).allowed
    assert not replay(record, {"shop": compile_as(make_state(allow(OTHER)), Mode.EXPLICIT)}).allowed


@pytest.mark.parametrize(("action", "direction"), [(Action.DENY, Direction.EGRESS), (Action.ALLOW, Direction.INGRESS)])
def test_only_a_rule_that_allows_egress_names_hosts(action: Action, direction: Direction) -> None:
    with pytest.raises(InputError, match="only a rule that allows egress can name hosts"):
        Rule(name="no", action=action, direction=direction, peers=(Peer(unidentified=True, hosts=(API,)),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*.example.com", "a wildcard can't be resolved"),
        ("Api.Example.com.", "write api.example.com"),
        ("192.0.2.7", "an address goes into `cidrs`"),
        ("bücher.example", "xn--"),
    ],
)
def test_a_fault_says_what_to_write_instead(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_host(text)
    assert message in f"{caught.value.message}; {caught.value.hint}"


YAML = """
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: shop}
spec:
  rules:
  - name: out
    action: allow
    direction: egress
    peers: [{unidentified: true, hosts: [api.example.com, other.example.net]}]
    ports: [443]
"""


def test_hosts_are_read_and_written_back() -> None:
    (document,) = parse_documents(YAML)
    assert isinstance(document, MeshPolicyDocument)
    assert list_hosts(document.rules) == [API, OTHER]
    assert parse_documents(format_documents([document])) == [document]


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("other.example.net", '"*.example.net"', "spec.rules[0].peers[0].hosts[1]", "wildcard"),
        ("action: allow", "action: deny", "spec.rules[0].peers[0].hosts", "only a rule that allows egress"),
        ("unidentified: true, ", "", "spec.rules[0].peers[0]", "goes together"),
    ],
)
def test_a_documents_fault_has_its_place(old: str, new: str, path: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        parse_documents(YAML.replace(old, new))
    assert caught.value.path == path


def test_a_namespaces_rules_name_no_more_hosts_than_its_sidecars_ask_for() -> None:
    rules = tuple(allow(f"h{number}.example", name=f"r{number}") for number in range(MAX_HOSTS))
    MeshPolicyDocument(namespace="shop", rules=(*rules, allow("h1.example", name="again")))
    with pytest.raises(InputError, match="257 different hosts"):
        MeshPolicyDocument(namespace="shop", rules=(*rules, allow(API, name="more")))


def test_an_older_sidecar_gets_no_such_rule_and_an_older_ca_no_names() -> None:
    """Without its hosts the rule would name nobody, or match whatever an older sidecar takes that for."""
    both = allow(API, name="both", peers=(*allow(API).peers, Peer(unidentified=True, cidrs=("192.0.2.0/24",))))
    told = messages.express_in(1, messages.NamespaceChanged(state=make_state(allow(API), both)))
    assert isinstance(told, messages.NamespaceChanged)
    (kept,) = told.state.rules
    assert (kept.name, kept.peers) == ("both", both.peers[1:])
    assert b"hosts" not in messages.encode_message(told)
    record = make_record(
        reason=Reason.HOST_NOT_RESOLVED, destination=PartyRecord(address="192.0.2.7:443", hosts=(API,))
    )
    sent = messages.express_in(1, messages.Decisions(batch=1, records=(record,)))
    assert isinstance(sent, messages.Decisions)
    assert b"hosts" not in messages.encode_message(sent)
    assert sent.records[0].reason is Reason.EGRESS_NOT_ALLOWED
