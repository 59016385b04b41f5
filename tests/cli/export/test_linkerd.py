"""Linkerd's objects: one Server for each workload's port, and who may use it."""

from __future__ import annotations

from typing import Any

from cli.export.linkerd import write_linkerd_policies
from cli.export.plan import Effect
from tests.cli.export.world import list_losses, make_resolver


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


def test_refusals_and_egress_are_losses() -> None:
    resolver = make_resolver()
    write_linkerd_policies(resolver)
    assert {"shop/nobody", "shop/to-api", "shop/from-office"} <= set(list_losses(resolver, Effect.LOOSER))
    assert "shop/partner" in list_losses(resolver, Effect.STRICTER)
