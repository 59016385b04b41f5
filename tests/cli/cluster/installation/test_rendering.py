"""Each choice is in the objects, and nothing else changes."""

from __future__ import annotations

from typing import Any

from cli.cluster.installation.bundle import load_objects
from cli.cluster.installation.choices import Choices
from cli.cluster.installation.planning import compare
from cli.cluster.installation.rendering import name_settings, render

# As `kubectl kustomize` names the settings' ConfigMap of manifests/overlays/single.
DEFAULT_NAME = "touchmark-settings-bb7cc9b727"


def find(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] != "default-deny"]
    return found


def test_without_a_choice_only_the_settings_get_their_name() -> None:
    plain = load_objects(has_database=False)
    rendered = render(plain, Choices())
    changed = [(a["kind"], [each.path for each in compare(a, b)]) for a, b in zip(plain, rendered, strict=True)]
    assert [each for each in changed if each[1]] == [
        ("ConfigMap", ["metadata.name"]),
        ("Deployment", ["spec.template.spec.containers[ca].envFrom"]),
    ]
    assert find(rendered, "ConfigMap")["metadata"]["name"] == DEFAULT_NAME, "as Kustomize names it"


def test_other_settings_have_another_name_so_that_the_ca_s_pods_are_made_anew() -> None:
    rendered = render(load_objects(has_database=False), Choices(sidecar_images=("a/s:1", "a/s:0")))
    settings, deployment = find(rendered, "ConfigMap"), find(rendered, "Deployment")
    assert settings["data"]["TOUCHMARK_SIDECAR_IMAGE"] == "a/s:1,a/s:0"
    assert settings["metadata"]["name"] != DEFAULT_NAME
    [source] = deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    assert source["configMapRef"]["name"] == settings["metadata"]["name"]
    plain = {"metadata": {"name": "touchmark-settings"}, "data": settings["data"]}
    assert name_settings(plain) == settings["metadata"]["name"]


def test_in_another_namespace_ours_is_named_nowhere() -> None:
    for has_database in (False, True):
        choices = Choices(namespace="mesh", database_secret="db" if has_database else "")
        rendered = render(load_objects(has_database=has_database), choices)
        assert "touchmark-system" not in str(rendered)
        webhook = find(rendered, "MutatingWebhookConfiguration")
        assert {each["clientConfig"]["service"]["namespace"] for each in webhook["webhooks"]} == {"mesh"}
        assert rendered[0]["metadata"]["name"] == "mesh"


def test_the_ca_s_pod_and_volume_are_as_chosen() -> None:
    choices = Choices(
        image="r/ca:1",
        pull_secrets=("a", "b"),
        node_selector=(("disk", "ssd"),),
        priority_class="high",
        storage_class="fast",
        storage_size="2Gi",
    )
    rendered = render(load_objects(has_database=False), choices)
    pod = find(rendered, "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "r/ca:1"
    assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert (pod["nodeSelector"], pod["priorityClassName"]) == ({"disk": "ssd"}, "high")
    claim = find(rendered, "PersistentVolumeClaim")["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "2Gi")


def test_a_database_s_secret_port_and_replicas_are_as_chosen() -> None:
    choices = Choices(database_secret="db", database_port=6432, replicas=5, api_server_ports=(8443,))
    rendered = render(load_objects(has_database=True), choices)
    deployment = find(rendered, "Deployment")
    assert deployment["spec"]["replicas"] == 5
    pod = deployment["spec"]["template"]["spec"]
    [url] = [each for each in pod["containers"][0]["env"] if each["name"] == "TOUCHMARK_DATABASE_URL"]
    assert url["valueFrom"]["secretKeyRef"]["name"] == "db"
    [volume] = [each for each in pod["volumes"] if each["name"] == "database"]
    assert volume["secret"]["secretName"] == "db"
    [rule] = find(rendered, "NetworkPolicy")["spec"]["egress"]
    assert [each["port"] for each in rule["ports"]] == [53, 53, 8443, 6432]


def test_rendering_leaves_what_it_was_given_as_it_is() -> None:
    plain = load_objects(has_database=False)
    render(plain, Choices(namespace="mesh", image="r/ca:1", sidecar_images=("s",)))
    assert plain == load_objects(has_database=False)
