"""The root is rotated beside a real API server: pods are injected all along, and what names the roots follows."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shared.model.trust.join_token import parse_join_token
from shared.model.wire.messages import Enrol, Registration, Welcome, decode_from_ca, encode_message
from sidecar.control.ca_dial import fetch_pinned_root, make_context, name_roots, open_stream
from sidecar.credential.credential import make_key_request
from sidecar.settings.parsing import parse_host_port
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.webhook_ca import WebhookCA, touchmark, wait_until
from tests.shared.model.injection.pods import make_pod

# Long enough to look at what is prepared, on a busy machine too.
DELAY_S = 30


@pytest.fixture(scope="module")
def ca(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookCA]:
    with WebhookCA(api_server, tmp_path_factory.mktemp("ca"), "--trust-delay-s", str(DELAY_S)) as running:
        yield running


class Creator:
    """Makes pods on trial one after another, from a thread, and notes those that weren't injected."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pods on trial")
        self.failures: list[str] = []
        self.injected = 0

    def create(self, *options: str) -> None:
        """Make one pod; note when it isn't injected."""
        pod = make_pod()
        pod["metadata"] = {**pod["metadata"], "name": f"p-{uuid.uuid4().hex[:8]}", "namespace": self._namespace}
        done = self._server.kubectl.run("create", "-f", "-", "-o", "json", *options, stdin=json.dumps(pod))
        if done.returncode != 0:
            self.failures.append(done.stderr)
            return
        names = [each["name"] for each in json.loads(done.stdout)["spec"].get("initContainers", [])]
        if names[:2] != ["touchmark-capture", "touchmark-sidecar"]:
            self.failures.append(f"not injected: {names}")
        self.injected += 1

    def _run(self) -> None:
        while not self._over.is_set():
            self.create("--dry-run=server")

    def __enter__(self) -> Creator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def read_bundles(ca: WebhookCA) -> tuple[bytes, ...]:
    """The roots (DER) that the API server knows the webhook by: each webhook's the same."""
    (bundle,) = set(ca.read_bundles())
    return split(base64.b64decode(bundle))


def read_trust(server: ApiServer, namespace: str) -> tuple[bytes, ...]:
    """The roots (DER) that the namespace's pods read."""
    found = server.kubectl.get("configmap", "touchmark-trust", "-n", namespace)
    return split(found["data"]["roots.pem"].encode())


def split(pem: bytes) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem))


def read_status(ca: WebhookCA) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(touchmark(ca, "ca", "status", "--json"))
    return status


async def join(token_text: str) -> x509.Certificate:
    """Join by a token as a sidecar does, leave again, and return the issuer of what it was given."""
    token = parse_join_token(token_text)
    ca = parse_host_port(token.ca)
    root = await fetch_pinned_root(ca, token.root_pin, mark=0, timeout_s=90)
    stream = await open_stream(
        ca, make_context([root], None), token.trust_domain, server_name=name_roots([root]), mark=0, timeout_s=90
    )
    try:
        registration = Registration(instance="late", version="0", addresses=(), tunnel_port=0, capture="listeners")
        message = Enrol(token=token_text, csr=make_key_request().csr, registration=registration)
        await stream.send(encode_message(message), text=True)
        async with asyncio.timeout(90):
            welcome = decode_from_ca(await stream.recv(decode=False))
    finally:
        await stream.close()
    assert isinstance(welcome, Welcome), welcome
    return x509.load_der_x509_certificate(welcome.chain[1])


def test_pods_are_injected_before_during_and_after_and_each_root_is_named_in_its_time(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    with Creator(api_server, namespace) as creator:
        creator.create()
        (old,) = read_bundles(ca)
        assert read_trust(api_server, namespace) == (old,)
        token = touchmark(ca, "ca", "join-token", "shop/late").strip()

        # Prepared: both roots are everywhere, and wait there for as long as a kubelet may lag.
        with pytest.raises(subprocess.CalledProcessError) as caught:
            touchmark(ca, "ca", "rotate", "root", "--timeout", "1", "--json")
        assert caught.value.returncode == 9
        prepared = json.loads(caught.value.stdout)
        assert (prepared["step"], prepared["kind"]) == ("prepared", "root")
        wait_until(lambda: len(read_bundles(ca)) == 2, timeout_s=90)
        wait_until(lambda: len(read_trust(api_server, namespace)) == 2, timeout_s=90)
        (first, new) = read_bundles(ca)
        assert (first, new) == read_trust(api_server, namespace) and first == old
        wait_until(lambda: read_status(ca)["rotation"]["unpublished"] == [], timeout_s=90)
        status = read_status(ca)["rotation"]
        if status["step"] == "prepared":
            assert status["ready_at"] >= status["started"] + DELAY_S
        else:  # On a machine that is slow enough.
            assert time.time() >= status["started"] + DELAY_S
        creator.create()

        # Active: the new root's issuer signs; the webhook's certificate and the roots' list are known to everybody.
        wait_until(lambda: read_status(ca)["rotation"]["step"] == "active", timeout_s=DELAY_S + 60)
        assert (read_bundles(ca), read_trust(api_server, namespace)) == ((old, new), (old, new))
        assert len(read_status(ca)["rotation"]["open_tokens"]) == 1
        creator.create()
        before = creator.injected
        wait_until(lambda: creator.injected >= before + 3 or bool(creator.failures), timeout_s=60)
        issuer = asyncio.run(join(token))
        assert issuer.issuer == x509.load_der_x509_certificate(new).subject

        # Retired: nothing below the old root is alive, and its last token is spent.
        wait_until(lambda: read_status(ca)["rotation"]["step"] == "retired", timeout_s=60)
        wait_until(lambda: read_bundles(ca) == (new,), timeout_s=90)
        wait_until(lambda: read_trust(api_server, namespace) == (new,), timeout_s=90)
        creator.create()
    assert creator.failures == []


def test_a_forced_rotation_keeps_the_webhook_working_too(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    """The API server isn't shown a root before it knows it, whatever else is forced."""
    with Creator(api_server, namespace) as creator:
        creator.create()
        before = read_bundles(ca)
        touchmark(ca, "ca", "rotate", "root", "--force")
        wait_until(lambda: len(read_bundles(ca)) == 2 and read_bundles(ca)[0] == before[0], timeout_s=90)
        done = creator.injected
        wait_until(lambda: creator.injected >= done + 3 or bool(creator.failures), timeout_s=60)
        creator.create()
        # It is taken back, and neither that nor what is left of it drops a pod.
        touchmark(ca, "ca", "rotate", "root", "--revert")
        creator.create()
        wait_until(lambda: read_bundles(ca) == before, timeout_s=60)
        creator.create()
    assert creator.failures == []
