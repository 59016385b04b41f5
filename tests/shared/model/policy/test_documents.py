"""Policies and programs as YAML: read back as written, each fault at its line and path."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.model.errors import DocumentError, TouchmarkError
from shared.model.identity.program import Program
from shared.model.policy.documents import (
    Document,
    MeshPolicyDocument,
    ProgramDocument,
    format_documents,
    make_plain,
    parse_documents,
    parse_ports,
    read_document,
)
from shared.model.policy.rules import Action, Direction, Mode, Peer, PortRange, Requirement, Rule
from tests.shared.model.policy.object_cases import CASES, Case
from tests.shared.model.policy.scenarios import ACCOUNTS, NAMESPACES, PROGRAMS, rules

A, B = "a" * 64, "b" * 64

WHOLE = f"""\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata:
  name: default
  namespace: shop
  uid: 1b2c
  labels: {{team: red}}
spec:
  mode: explicit
  group:
    label: example.com/team
  rules:
  - name: bank-to-db
    action: allow
    workloads: [db]
    programs: ["sha256:{A}"]
    peers:
    - namespace: bank
      serviceAccount: teller
      program: sha256:{B}/main:none
    - unidentified: true
      cidrs: [198.18.0.0/15, "2001:db8::/32"]
    ports: [5432, 9000-9100, "443"]
  - name: no-metadata-service
    action: deny
    direction: egress
    peers: [{{unidentified: true, cidrs: [169.254.169.254/32]}}]
status: {{installed: 3}}
---
apiVersion: touchmark.dev/v1alpha1
kind: Program
metadata: {{name: postgres, namespace: shop}}
spec:
  serviceAccount: db
  digests:
  - sha256:{A}
  - {B}/main:{A}
  weak: true
"""


def test_a_whole_example_is_read() -> None:
    policy, program = parse_documents(WHOLE, "f.yaml")
    assert policy == MeshPolicyDocument(
        namespace="shop",
        mode=Mode.EXPLICIT,
        group_label="example.com/team",
        rules=(
            Rule(
                name="bank-to-db",
                action=Action.ALLOW,
                workloads=("db",),
                programs=(Program(digest=A),),
                peers=(
                    Peer(namespace="bank", service_account="teller", program=Program(digest=B, main="none")),
                    Peer(unidentified=True, cidrs=("198.18.0.0/15", "2001:db8::/32")),
                ),
                ports=(
                    PortRange(first=5432, last=5432),
                    PortRange(first=9000, last=9100),
                    PortRange(first=443, last=443),
                ),
            ),
            Rule(
                name="no-metadata-service",
                action=Action.DENY,
                direction=Direction.EGRESS,
                peers=(Peer(unidentified=True, cidrs=("169.254.169.254/32",)),),
            ),
        ),
    )
    assert program == ProgramDocument(
        namespace="shop",
        name="postgres",
        service_account="db",
        programs=(Program(digest=A), Program(digest=B, main=A)),
        weak=True,
    )


def is_writable(rule: Rule) -> bool:
    """An allow rule for egress names addresses only; YAML refuses any other."""
    is_egress_allow = rule.action is Action.ALLOW and rule.direction is Direction.EGRESS
    return not is_egress_allow or (bool(rule.peers) and all(peer.unidentified for peer in rule.peers))


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    policy = MeshPolicyDocument(
        namespace=draw(st.sampled_from(NAMESPACES)),
        mode=draw(st.sampled_from((None, *Mode))),
        group_label=draw(st.sampled_from(("", "team", "example.com/team"))),
        requires=draw(st.sampled_from(((), (Requirement.MATCHING_ADDRESS,)))),
        rules=tuple(
            rule for rule in draw(st.lists(rules(), max_size=3, unique_by=lambda r: r.name)) if is_writable(rule)
        ),
    )
    program = ProgramDocument(
        namespace=policy.namespace,
        name=draw(st.sampled_from(("p", "1", "true", "null", "1.5", "0x1"))),
        service_account=draw(st.sampled_from((*ACCOUNTS, "yes", "010"))),
        programs=tuple(draw(st.lists(st.sampled_from(PROGRAMS), min_size=1, max_size=2))),
        weak=draw(st.booleans()),
    )
    return [policy, program]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_documents_are_read_back_as_they_were_written(written: list[Document]) -> None:
    assert parse_documents(format_documents(written)) == written
    assert msgspec.json.decode(msgspec.json.encode(written), type=list[Document]) == written


def test_no_documents_are_no_text() -> None:
    assert format_documents([]) == ""
    assert parse_documents("") == []


def test_an_empty_spec_is_an_empty_policy() -> None:
    text = "apiVersion: touchmark.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: default, namespace: shop}\nspec:\n"
    assert parse_documents(text) == [MeshPolicyDocument(namespace="shop")]


FAULTS: list[tuple[str, str, int, str, str]] = [
    ("touchmark.dev/v1alpha1\nkind: MeshPolicy", "v2\nkind: MeshPolicy", 1, "apiVersion", "'v2' is not one of"),
    ("kind: MeshPolicy", "kind: MeshPolice", 2, "kind", "not one of: MeshPolicy, Program"),
    ("  name: default", "  name: other", 4, "metadata.name", "named 'default'"),
    ("  namespace: shop\n", "  namespace: Shop\n", 5, "metadata.namespace", "not a namespace name"),
    ("  namespace: shop\n", "", 3, "metadata", "missing field `namespace`"),
    ("  namespace: shop\n", "  namespace: 12\n", 5, "metadata.namespace", "expected a string, found '12'"),
    ("  uid: 1b2c", "  nmae: x", 6, "metadata.nmae", "unknown field"),
    ("  mode: explicit", "  mode: strict", 9, "spec.mode", "not one of: permissive, explicit"),
    ("  mode: explicit", "  mode:", 9, "spec.mode", "found nothing"),
    ("example.com/team", "'no label'", 11, "spec.group.label", "not a label key"),
    ("  - name: bank-to-db", "  - title: x", 13, "spec.rules[0].title", "unknown field"),
    ("name: no-metadata-service", "name: bank-to-db", 24, "spec.rules[1].name", "two rules have the name"),
    ("name: no-metadata-service", "name: ''", 24, "spec.rules[1]", "a rule needs a name"),
    ("action: allow", "action: Allow", 14, "spec.rules[0].action", "not one of: allow, deny"),
    ("    workloads: [db]\n", "    workloads: [DB]\n", 15, "spec.rules[0].workloads[0]", "not a service account"),
    ("    workloads: [db]\n", "    workloads: []\n", 15, "spec.rules[0].workloads", "an empty list"),
    ("    workloads: [db]\n", "    workloads: db\n", 15, "spec.rules[0].workloads", "expected a list"),
    ("    workloads: [db]\n", "", 13, "spec.rules[0]", "programs need `workloads`"),
    (f'["sha256:{A}"]', '["sha256:abc"]', 16, "spec.rules[0].programs[0]", "not a SHA-256 digest"),
    ("    - namespace: bank\n", "    - namespace: B_\n", 18, "spec.rules[0].peers[0].namespace", "not a namespace"),
    ("      serviceAccount: teller\n", "", 18, "spec.rules[0].peers[0]", "a program needs its namespace"),
    ("unidentified: true\n", "unidentified: yes\n", 21, "spec.rules[0].peers[1].unidentified", "true or false"),
    ("unidentified: true\n", "unidentified: false\n", 21, "spec.rules[0].peers[1]", "goes together"),
    ("198.18.0.0/15,", "198.18.0.1/15,", 22, "spec.rules[0].peers[1].cidrs[0]", "host bits"),
    ("[5432,", "[0,", 23, "spec.rules[0].ports[0]", "not a port"),
    ("[5432,", "[65536,", 23, "spec.rules[0].ports[0]", "65536"),
    ("9000-9100", "9100-9000", 23, "spec.rules[0].ports[1]", "9100-9000"),
    ("9000-9100", "http", 23, "spec.rules[0].ports[1]", "not a port: 'http'"),
    ("9000-9100", "-1", 23, "spec.rules[0].ports[1]", "not a port: '-1'"),
    ("9000-9100", "010", 23, "spec.rules[0].ports[1]", "not a port: '010'"),
    ("name: postgres", "name: Post_gres", 32, "metadata.name", "not an object name"),
    ("  serviceAccount: db\n", "", 33, "spec", "missing field `serviceAccount`"),
    ("  weak: true", "  week: true", 38, "spec.week", "unknown field"),
    (f"  - sha256:{A}\n  - {B}/main:{A}\n", "    []\n", 35, "spec.digests", "at least one digest"),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "message"), FAULTS, ids=[f"{row[3]} {row[4]}" for row in FAULTS]
)
def test_each_fault_names_its_line_and_path(old: str, new: str, line: int, path: str, message: str) -> None:
    assert old in WHOLE
    with pytest.raises(DocumentError) as caught:
        parse_documents(WHOLE.replace(old, new, 1), "f.yaml")
    error = caught.value
    assert message in error.message
    assert (error.path, error.source) == (path, "f.yaml")
    assert error.line == line


@pytest.mark.parametrize("field", ["service", "services", "serviceName"])
def test_no_rule_names_a_service_and_the_reader_says_what_to_name_instead(field: str) -> None:
    """Who may edit a Service would change what the rule allows, and no version of the policy would say so."""
    text = WHOLE.replace("{unidentified: true, cidrs: [169.254.169.254/32]}", f"{{{field}: bank/db}}")
    assert text != WHOLE
    with pytest.raises(DocumentError, match="unknown field") as caught:
        parse_documents(text)
    assert "an ingress rule of their namespace" in caught.value.hint
    assert "`cidrs`" in caught.value.hint


def test_an_allow_rule_for_egress_doesnt_reach_into_the_mesh() -> None:
    text = WHOLE.replace("action: deny", "action: allow").replace(
        "{unidentified: true, cidrs: [169.254.169.254/32]}", "{namespace: bank}"
    )
    with pytest.raises(DocumentError, match="outside the mesh") as caught:
        parse_documents(text)
    assert "ingress rule" in caught.value.hint


def test_one_object_stands_in_a_text_once() -> None:
    program = WHOLE.split("---\n")[1]
    with pytest.raises(DocumentError, match="shop/postgres is defined twice"):
        parse_documents(f"{program}---\n{program}")


def test_documents_that_mean_nothing_cant_be_built() -> None:
    rule = Rule(name="r", action=Action.ALLOW)
    with pytest.raises(TouchmarkError, match="two rules"):
        MeshPolicyDocument(namespace="shop", rules=(rule, rule))
    with pytest.raises(TouchmarkError, match="label"):
        MeshPolicyDocument(namespace="shop", group_label="no label")
    with pytest.raises(TouchmarkError, match="digests"):
        ProgramDocument(namespace="shop", name="p", service_account="web", programs=())
    with pytest.raises(TouchmarkError, match="name"):
        ProgramDocument(namespace="shop", name="P", service_account="web", programs=(Program(digest=A),))
    with pytest.raises(TouchmarkError):
        ProgramDocument(namespace="shop", name="p", service_account="W", programs=(Program(digest=A),))


def test_ports_are_numbers_or_ranges() -> None:
    assert parse_ports("80") == PortRange(first=80, last=80)
    assert parse_ports("80-90") == PortRange(first=80, last=90)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_is_read_or_refused_as_the_api_server_does(case: Case) -> None:
    """The other half of this table's test is tests/kubernetes/test_crds.py."""
    text = json.dumps(case.document)  # Which is YAML, and without aliases.
    if case.path is None:
        assert parse_documents(text) == [read_document(case.document)]
        return
    attempts: list[Callable[[], object]] = [lambda: read_document(case.document)]
    if case.name == "1001 rules":  # A file for a CA outside a cluster may hold more.
        assert parse_documents(text)
    else:
        attempts.append(lambda: parse_documents(text))
    for attempt in attempts:
        with pytest.raises(DocumentError) as caught:
            attempt()
        assert caught.value.path == case.path


@pytest.mark.parametrize("case", [case for case in CASES if case.path is None], ids=lambda case: case.name)
def test_plain_objects_are_what_their_yaml_says(case: Case) -> None:
    documents = [read_document(case.document)]
    assert list(yaml.safe_load_all(format_documents(documents))) == make_plain(documents)
    assert make_plain([]) == []


def test_an_object_of_an_api_server_is_read_with_paths_and_without_lines() -> None:
    document = dict(CASES[0].document)
    document["metadata"] = {
        **document["metadata"],
        "uid": "1",
        "generation": 2,
        "managedFields": [{"fieldsV1": {"f:spec": {".": {}}}}],
        "finalizers": ["example.com/kept"],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
    assert read_document(document) == MeshPolicyDocument(namespace="shop")
    with pytest.raises(DocumentError) as caught:
        read_document({**document, "spec": {"mode": 1}}, "shop/default")
    assert caught.value.message == "shop/default spec.mode: expected a string, found '1'"
    assert caught.value.line == 0
