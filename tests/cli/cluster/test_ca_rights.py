"""The rights that doctor asks about are those that the manifests give."""

from __future__ import annotations

from pathlib import Path

import yaml

from cli.cluster.ca_rights import RIGHTS, Right, make_review

ROLES = Path(__file__).parents[3] / "manifests" / "base" / "roles.yaml"


def test_the_roles_give_all_of_them_and_no_more() -> None:
    given = set()
    for role in yaml.safe_load_all(ROLES.read_text(encoding="utf-8")):
        if role["metadata"]["name"] != "touchmark-ca" or not role.get("rules"):
            continue
        for rule in role["rules"]:
            given |= {
                (verb, group, resource, name, role["kind"] == "Role")
                for verb in rule["verbs"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for name in rule.get("resourceNames", [""])
            }
    asked = {
        (right.verb, right.group, "/".join(filter(None, (right.resource, right.subresource))), right.name, right.is_own)
        for right in RIGHTS
    }
    assert asked == given


def test_a_review_asks_for_the_ca_s_account() -> None:
    right = Right(verb="patch", group="touchmark.dev", resource="programs", subresource="status")
    review = make_review(right, "touchmark-system")
    assert review["spec"]["user"] == "system:serviceaccount:touchmark-system:touchmark-ca"
    assert review["spec"]["resourceAttributes"] == {
        "verb": "patch",
        "group": "touchmark.dev",
        "resource": "programs",
        "subresource": "status",
    }
    own = Right(verb="get", group="", resource="secrets", name="k", is_own=True)
    assert make_review(own, "ns")["spec"]["resourceAttributes"]["namespace"] == "ns"
    assert str(right) == "patch programs/status.touchmark.dev"
    assert str(own) == "get secrets k"
