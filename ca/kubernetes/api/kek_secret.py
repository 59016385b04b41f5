"""The key-encryption key in a Secret of the CA's own namespace: made once, by whichever replica is first. I/O.

So the key lies neither on the CA's volume nor in its database, nor in their backups. Those who have a key of their own
creates the Secret beforehand, with the key in base64 under ``key``.

What this does *not* protect from: whoever may read Secrets of the namespace, or etcd's disk where the cluster doesn't
encrypt Secrets at rest.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from ca.authority.kek import (
    KekOrigin,
    KeyEncryptionError,
    KeyEncryptionKey,
    generate_key,
    parse_key,
    refuse_to_generate,
)
from ca.kubernetes.api.client import ClusterClient, quote_name
from shared.model.errors import ConflictError, NotFoundError

FIELD: Final = "key"


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


async def load_key_secret(
    client: ClusterClient, *, namespace: str, name: str, sealed_by: str, now: float
) -> KeyEncryptionKey:
    """Read the key from its Secret; make the Secret, immutable, beside a new store.

    Arguments:
        sealed_by: the ID of the key that the store was sealed with; empty: the store is new.

    Raises:
        KeyEncryptionError: the Secret holds no such key, or is missing beside a store that was sealed.
        RefusedError: the CA may not read or make it.
        UnavailableError: the API server doesn't answer.
    """
    path = f"/api/v1/namespaces/{quote_name(namespace)}/secrets"
    try:
        return _read(await client.get(f"{path}/{quote_name(name)}", _Secret), namespace, name)
    except NotFoundError:
        if sealed_by:
            raise refuse_to_generate(f"the Secret {namespace}/{name}", sealed_by) from None
    wanted = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "touchmark"}},
        "immutable": True,  # Another key would open nothing of what this one has sealed.
        "data": {FIELD: base64.b64encode(generate_key(now=now).encode()).decode()},
    }
    try:
        made = await client.post(path, wanted, _Secret)
    except ConflictError:  # Another replica was faster: its key is the one.
        made = await client.get(f"{path}/{quote_name(name)}", _Secret)
    return _read(made, namespace, name)


def _read(secret: _Secret, namespace: str, name: str) -> KeyEncryptionKey:
    source = f"the Secret {namespace}/{name}"
    try:
        text = base64.b64decode(secret.data[FIELD], validate=True).decode("ascii")
    except (KeyError, binascii.Error, ValueError) as error:
        raise KeyEncryptionError(
            f"{source} holds no key-encryption key under `{FIELD}`", hint="make one with `openssl rand -base64 32`"
        ) from error
    return parse_key(text, origin=KekOrigin.SECRET, source=source)
