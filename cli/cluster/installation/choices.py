"""What can be chosen of an installation; what an existing one has chosen; and what an upgrade makes of both. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cli.cluster.connection import Object
from shared.model.errors import ConflictError, InputError, naming
from shared.model.identity.identity import check_namespace, check_trust_domain
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE
from shared.model.kubernetes.quantity import parse_quantity

DATABASE_PORT: Final = 5432
DNS_PORT: Final = 53
DATABASE_VARIABLE: Final = "TOUCHMARK_DATABASE_URL"
SIDECAR_IMAGE: Final = "TOUCHMARK_SIDECAR_IMAGE"
TRUST_DOMAIN: Final = "TOUCHMARK_TRUST_DOMAIN"
MAX_REPLICAS: Final = 50
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,510}")
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,316}")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_RELEASE_TAG: Final = re.compile(r"(?P<repository>.+):v?\d+\.\d+\.\d+")


# What an upgrade can take away: by its option, the attribute and the field of the CA's pods.
UNSETTABLE: Final = {
    "node-selector": ("node_selector", "nodeSelector"),
    "priority-class": ("priority_class", "priorityClassName"),
    "pull-secret": ("pull_secrets", "imagePullSecrets"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What was chosen. Empty: as the manifests say.

    Attributes:
        image: of the CA.
        sidecar_images: that may join; pods get the first.
        pull_secrets: Secrets of the CA's namespace with the registry's credentials, for the CA's image.
        database_secret: the Secret with the URL of a PostgreSQL; empty: SQLite on a volume.
        database_port, replicas: only with a database; 0: as the manifests say.
        storage_class, storage_size: only of SQLite's volume.
        api_server_ports: on which the CA may reach the API server.
    """

    namespace: str = SYSTEM_NAMESPACE
    image: str = ""
    sidecar_images: tuple[str, ...] = ()
    trust_domain: str = ""
    pull_secrets: tuple[str, ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()
    priority_class: str = ""
    storage_class: str = ""
    storage_size: str = ""
    database_secret: str = ""
    database_port: int = 0
    replicas: int = 0
    api_server_ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        if self.trust_domain:
            with naming("--trust-domain"):
                check_trust_domain(self.trust_domain)
        for option, image in (("--image", self.image), *(("--sidecar-image", each) for each in self.sidecar_images)):
            if image and not _IMAGE.fullmatch(image):
                raise InputError(f"{option}: not an image: {image[:200]!r}", hint="registry.example/touchmark/ca:0.2.0")
        for option, name in (
            *(("--pull-secret", each) for each in self.pull_secrets),
            ("--priority-class", self.priority_class),
            ("--storage-class", self.storage_class),
            ("--database-secret", self.database_secret),
        ):
            if name and not _NAME.fullmatch(name):
                raise InputError(f"{option}: not the name of an object: {name[:200]!r}")
        for key, value in self.node_selector:
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise InputError(
                    f"--node-selector: not a node's label: {key[:200]}={value[:200]}", hint="--node-selector disk=ssd"
                )
        if self.storage_size:
            with naming("--storage-size"):
                if parse_quantity(self.storage_size) <= 0:
                    raise InputError("a volume has a size", hint="--storage-size 1Gi")
        for option, port in (
            *(("--api-server-port", each) for each in self.api_server_ports),
            ("--database-port", self.database_port),
        ):
            if not 1 <= port <= 65535 and (port or option != "--database-port"):
                raise InputError(f"{option}: not a port: {port}", hint="ports are 1 to 65535")
        if not 0 <= self.replicas <= MAX_REPLICAS:
            raise InputError(f"--replicas: from 1 to {MAX_REPLICAS} replicas, not {self.replicas}")
        if self.database_secret and (self.storage_class or self.storage_size):
            raise InputError("a CA with PostgreSQL has no volume", hint="leave out the options of the storage")
        if not self.database_secret and (self.replicas > 1 or self.database_port):
            raise InputError(
                "several replicas share a PostgreSQL", hint="--database-secret names the Secret with its URL"
            )


def parse_selector(pairs: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Parse ``key=value`` of a node's labels.

    Raises:
        InputError: one has no ``=``.
    """
    found = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--node-selector: not a node's label: {pair[:200]!r}", hint="--node-selector disk=ssd")
        found.append((key, value))
    return tuple(found)


def read_choices(
    deployment: Object, *, settings: Object | None, claim: Object | None, network: Object | None
) -> Choices:
    """Return what an installation has chosen, from its objects, whoever made them.

    Arguments:
        deployment: ``touchmark-ca``; its ``envFrom`` names the ConfigMap ``settings``.
        claim: of SQLite's volume, if there is one.
        network: the NetworkPolicy ``touchmark-ca``.

    Raises:
        InputError: they hold what can't be chosen, or don't say what can't be changed: the trust domain, the store.
    """
    pod = deployment["spec"]["template"]["spec"]
    container = find_container(pod)
    data = (settings or {}).get("data") or {}
    if not data.get(TRUST_DOMAIN):
        raise InputError(
            f"the CA's trust domain can't be read: no ConfigMap of its envFrom says {TRUST_DOMAIN}",
            hint="put it back, or change this installation with what made it",
        )
    secret = _read_database_secret(container)
    ports = _read_ports(network or {})
    database_port = ports.pop() if secret and len(ports) > 1 else 0
    volume = (claim or {}).get("spec") or {}
    return Choices(
        namespace=deployment["metadata"]["namespace"],
        image=str(container.get("image", "")),
        sidecar_images=tuple(filter(None, str(data.get(SIDECAR_IMAGE, "")).split(","))),
        trust_domain=str(data.get(TRUST_DOMAIN, "")),
        pull_secrets=tuple(each["name"] for each in pod.get("imagePullSecrets") or ()),
        node_selector=tuple(sorted((pod.get("nodeSelector") or {}).items())),
        priority_class=str(pod.get("priorityClassName", "")),
        storage_class="" if secret else str(volume.get("storageClassName", "")),
        storage_size="" if secret else str(((volume.get("resources") or {}).get("requests") or {}).get("storage", "")),
        database_secret=secret,
        database_port=database_port,
        replicas=int(deployment["spec"].get("replicas", 1)) if secret else 0,
        api_server_ports=tuple(ports),
    )


def list_kept(deployment: Object, unset: Iterable[str]) -> list[str]:
    """Return what is still there of what was to be taken away: another tool has written it."""
    pod = deployment["spec"]["template"]["spec"]
    fields = (UNSETTABLE[each][1] for each in unset)
    return [each for each in fields if pod.get(each)]


def find_container(pod: Object) -> dict[str, Any]:
    """Return the CA's own container of a pod's specification.

    Raises:
        InputError: there is none.
    """
    for container in pod.get("containers") or ():
        if container.get("name") == "ca":
            found: dict[str, Any] = container
            return found
    raise InputError("the Deployment touchmark-ca has no container ca", hint="was it made by another tool?")


def _read_database_secret(container: dict[str, Any]) -> str:
    for variable in container.get("env") or ():
        if variable.get("name") == DATABASE_VARIABLE:
            secret = str(((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name", ""))
            if not secret:  # Else the CA would get an empty store on a volume.
                raise InputError(
                    f"the CA's {DATABASE_VARIABLE} isn't from a Secret",
                    hint="change this installation with what made it",
                )
            return secret
    return ""


def _read_ports(network: Object) -> list[int]:
    """Return the TCP ports of the egress rule but DNS: the API server's, and behind them a database's."""
    rules = (network.get("spec") or {}).get("egress") or ()
    ports = [each for rule in rules for each in rule.get("ports") or ()]
    return [
        each["port"]
        for each in ports
        if each.get("protocol", "TCP") == "TCP" and isinstance(each.get("port"), int) and each["port"] != DNS_PORT
    ]


def advance(
    found: Choices,
    given: Mapping[str, Any],
    *,
    version: str,
    used_images: Iterable[str],
    unset: Iterable[str] = (),
) -> Choices:
    """Return what an upgrade installs: what is there, with what was given, and this release's images.

    Arguments:
        given: attributes by their names; empty ones change nothing.
        version: of this command. An image whose tag is a release gets this one.
        used_images: of running sidecars: those stay admitted.
        unset: what is taken away, of ``UNSETTABLE``.

    Raises:
        ConflictError: the store would be another.
        InputError: an image's release can't be read from its name, and no other was given; or what is given is invalid.
    """
    changes = {name: value for name, value in given.items() if value}
    if changes.get("database_secret") and not found.database_secret:
        raise ConflictError(
            "this CA keeps its store on a volume, which an upgrade doesn't move to PostgreSQL",
            hint="leave out --database-secret, or uninstall first",
        )
    for each in unset:
        attribute, _ = UNSETTABLE[each]
        if attribute in changes:
            raise InputError(f"--{each} and --unset {each} can't be combined", hint="choose one")
        changes[attribute] = "" if isinstance(getattr(found, attribute), str) else ()
    used = set(used_images)
    first = changes.get("sidecar_images") or (_move(found.sidecar_images[:1], version, option="--sidecar-image"),)
    kept = [image for image in found.sidecar_images if image in used]
    changes["sidecar_images"] = tuple(dict.fromkeys([*first, *kept]))
    changes["image"] = changes.get("image") or _move((found.image,), version, option="--image")
    return replace(found, **changes)


def _move(images: tuple[str, ...], version: str, *, option: str) -> str:
    image = images[0] if images else ""
    tagged = _RELEASE_TAG.fullmatch(image)
    if tagged is None or "@" in image:
        raise InputError(
            f"{image or 'no image'} doesn't say its release by a tag",
            hint=f"name the image of {version}: {option} IMAGE",
        )
    return f"{tagged['repository']}:{version}"
