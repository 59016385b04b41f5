"""Linkerd's objects: one Server for each workload's port, and who may use it."""

from __future__ import annotations

from typing import Any

from cli.export.linkerd import write_linkerd_policies
from cli.export.plan import Effect
from tests.cli.export.world import list_losses, make_resolver

# The fields of a spec, as Linkerd's definitions name them; all of them are needed, or one of each "|". These objects
# were applied by hand to an API server that had the definitions of linkerd2 b24cd405 (2026-08): it took all of them.
FIELDS = {
    "policy.linkerd.io/v1beta3 Server": {"podSelector", "port", "accessPolicy"},
    "policy.linkerd.io/v1alpha1 AuthorizationPolicy": {"targetRef", "requiredAuthenticationRefs"},
    "policy.linkerd.io/v1alpha1 MeshTLSAuthentication": {"identities|identityRefs"},
    "policy.linkerd.io/v1alpha1 NetworkAuthentication": {"networks"},
}


def list_kind(objects: list[Any], kind: str) -> list[Any]:
    return [each for each in objects if each["kind"] == kind]


def test_a_port_of_a_workload_has_one_server_whatever_rules_name_it() -> None:
    servers = list_kind(write_linkerd_policies(make_resolver()), "Server")
    keys = [(str(each["spec"]["podSelector"]), each["spec"]["port"]) for each in servers]
    assert len(set(keys)) == len(keys)
    assert {each["spec"]["accessPolicy"] for each in servers} == {"deny"}


def test_each_reference_leads_to_an_object() -> None:
    objects = write_linkerd_policies(make_resolver())
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    assert len(names) == len(objects)
    for each in list_kind(objects, "AuthorizationPolicy"):
        target = each["spec"]["targetRef"]
        [reference] = each["spec"]["requiredAuthenticationRefs"]
        assert {(target["kind"], target["name"]), (reference["kind"], reference["name"])} <= names


def test_objects_have_the_fields_of_linkerds_definitions() -> None:
    """Any other one is refused, or left out in silence."""
    objects = write_linkerd_policies(make_resolver())
    assert {f"{each['apiVersion']} {each['kind']}" for each in objects} == set(FIELDS)
    for each in objects:
        wanted = FIELDS[f"{each['apiVersion']} {each['kind']}"]
        named = {choice for choice in wanted for field in each["spec"] if field in choice.split("|")}
        assert named == wanted
        assert len(each["spec"]) == len(wanted)
        assert all(each["spec"].values()), "no list of them may be empty"


def test_refusals_and_egress_are_losses() -> None:
    resolver = make_resolver()
    write_linkerd_policies(resolver)
    assert {"shop/nobody", "shop/to-api", "shop/from-office"} <= set(list_losses(resolver, Effect.LOOSER))
    assert "shop/partner" in list_losses(resolver, Effect.STRICTER)
