"""What was chosen is read back from the objects that it made, and an upgrade keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from cli.cluster.installation.bundle import load_objects
from cli.cluster.installation.choices import Choices, advance, parse_selector, read_choices
from cli.cluster.installation.rendering import render
from shared.model.errors import ConflictError, InputError, TouchmarkError

SINGLE = Choices(
    namespace="mesh",
    image="registry.example/touchmark/ca:0.1.0",
    sidecar_images=("registry.example/touchmark/sidecar:0.1.0", "registry.example/touchmark/sidecar:0.0.9"),
    trust_domain="example.org",
    pull_secrets=("registry",),
    node_selector=(("disk", "ssd"), ("zone", "a")),
    priority_class="system-cluster-critical",
    storage_class="fast",
    storage_size="5Gi",
    api_server_ports=(443, 8443),
)
SEVERAL = Choices(
    image="a/ca:0.2.0",
    sidecar_images=("a/sidecar@sha256:" + "ab" * 32,),
    trust_domain="touchmark.local",
    database_secret="db",
    database_port=6432,
    replicas=5,
    api_server_ports=(443, 6443),
)


def read_back(choices: Choices) -> Choices:
    objects = render(load_objects(has_database=bool(choices.database_secret)), choices)

    def find(kind: str) -> dict[str, Any] | None:
        named = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] != "default-deny"]
        return named[0] if named else None

    deployment = find("Deployment")
    assert deployment is not None
    return read_choices(
        deployment,
        settings=find("ConfigMap"),
        claim=find("PersistentVolumeClaim"),
        network=find("NetworkPolicy"),
    )


@pytest.mark.parametrize("choices", [SINGLE, SEVERAL], ids=["single", "several"])
def test_what_was_chosen_can_be_read_from_the_objects(choices: Choices) -> None:
    assert read_back(choices) == choices


def test_a_store_or_trust_domain_that_can_t_be_read_isn_t_replaced_by_the_manifests_own() -> None:
    objects = render(load_objects(has_database=True), SEVERAL)
    [deployment] = [each for each in objects if each["kind"] == "Deployment"]
    [settings] = [each for each in objects if each["kind"] == "ConfigMap"]
    with pytest.raises(InputError, match="trust domain can't be read"):
        read_choices(deployment, settings=None, claim=None, network=None)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [url] = [each for each in container["env"] if each["name"] == "TOUCHMARK_DATABASE_URL"]
    del url["valueFrom"]
    url["value"] = "postgresql://user:word@db/touchmark"
    with pytest.raises(InputError, match="isn't from a Secret") as caught:
        read_choices(deployment, settings=settings, claim=None, network=None)
    assert "word" not in f"{caught.value}{caught.value.hint}"


def test_what_wasn_t_chosen_is_read_as_the_manifests_say_it() -> None:
    found = read_back(Choices())
    assert (found.trust_domain, found.storage_size, found.api_server_ports) == ("touchmark.local", "1Gi", (443, 6443))
    assert (found.replicas, found.database_secret) == (0, "")
    assert render(load_objects(has_database=False), found) == render(load_objects(has_database=False), Choices())


def test_an_upgrade_moves_images_to_its_release_and_keeps_admitting_the_one_in_use() -> None:
    used = "registry.example/touchmark/sidecar:0.1.0"
    found = advance(SINGLE, {}, version="0.2.0", used_images=[used, "other"])
    assert found.image == "registry.example/touchmark/ca:0.2.0"
    assert found.sidecar_images == ("registry.example/touchmark/sidecar:0.2.0", used)
    assert (found.trust_domain, found.storage_class, found.namespace) == ("example.org", "fast", "mesh")
    again = advance(found, {}, version="0.2.0", used_images=[])
    assert again.sidecar_images == ("registry.example/touchmark/sidecar:0.2.0",), "nobody runs the former one"


def test_an_upgrade_takes_what_it_is_given() -> None:
    given = {"image": "b/ca:x", "sidecar_images": ("b/sidecar:x",), "replicas": 7, "priority_class": ""}
    found = advance(SEVERAL, given, version="0.3.0", used_images=[])
    assert (found.image, found.sidecar_images, found.replicas) == ("b/ca:x", ("b/sidecar:x",), 7)
    with pytest.raises(InputError, match="share a PostgreSQL"):
        advance(SINGLE, {"replicas": 3}, version="0.2.0", used_images=[])
    with pytest.raises(ConflictError, match="volume"):
        advance(SINGLE, {"database_secret": "db"}, version="0.2.0", used_images=[])


@pytest.mark.parametrize("image", ["a/ca@sha256:" + "ab" * 32, "a/ca:0.1.0@sha256:" + "ab" * 32, "a/ca:latest", "a/ca"])
def test_an_image_without_a_release_isn_t_guessed(image: str) -> None:
    with pytest.raises(InputError, match="doesn't say its release") as caught:
        advance(Choices(image=image, sidecar_images=("a/s:0.1.0",)), {}, version="0.2.0", used_images=[])
    assert "--image" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": "Not"},
        {"image": "two words"},
        {"sidecar_images": ("a,b",)},
        {"trust_domain": "UPPER"},
        {"pull_secrets": ("-",)},
        {"node_selector": (("a b", "c"),)},
        {"priority_class": "A"},
        {"storage_size": "0"},
        {"storage_size": "much"},
        {"replicas": 2},
        {"database_port": 5432},
        {"database_secret": "db", "storage_size": "1Gi"},
        {"database_secret": "db", "replicas": 51},
        {"api_server_ports": (0,)},
    ],
    ids=str,
)
def test_what_can_t_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TouchmarkError) as caught:
        Choices(**wrong)
    assert caught.value.exit_code == 2
    (name, *others) = wrong
    if not others and name not in ("namespace", "replicas", "database_port"):
        option = "--" + name.removesuffix("s").replace("_", "-")
        assert caught.value.message.startswith(option)


def test_a_node_s_label_has_a_value() -> None:
    assert parse_selector(["a=b", "kubernetes.io/os=linux", "c="]) == (
        ("a", "b"),
        ("kubernetes.io/os", "linux"),
        ("c", ""),
    )
    with pytest.raises(InputError, match="label"):
        parse_selector(["a"])


def test_a_deployment_of_another_shape_is_said() -> None:
    deployment = {"metadata": {"namespace": "n"}, "spec": {"template": {"spec": {"containers": [{"name": "x"}]}}}}
    with pytest.raises(InputError, match="no container ca"):
        read_choices(deployment, settings=None, claim=None, network=None)
