"""What a sidecar in Kubernetes is told of its pod: by the downward API, and by injection. Pure.

Belongs here: reading these variables, each fault with its name. Doesn't: the token that proves it
(``sidecar/control/joining.py``). Nothing here is proven: the CA checks it against the API server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from shared.model.errors import IdentityError, InputError
from shared.model.identity.identity import Workload
from shared.model.kubernetes.contract import (
    MAX_PROBES,
    POD_IPS_VARIABLE,
    POD_NAME_VARIABLE,
    POD_NAMESPACE_VARIABLE,
    POD_UID_VARIABLE,
    PROBES_VARIABLE,
    SERVICE_ACCOUNT_VARIABLE,
    ProbeTarget,
    name_instance,
)
from sidecar.settings.parsing import parse_address

MAX_POD_ADDRESSES = 8
_MAX_PROBES_BYTES = 1024 * 1024
_probes = msgspec.json.Decoder(tuple[ProbeTarget, ...], strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as its sidecar sees it.

    Attributes:
        instance: names the sidecar in decisions.
        addresses: the pod's IP addresses, the first one its main one.
    """

    instance: str
    workload: Workload
    addresses: tuple[str, ...]


def read_pod(environment: Mapping[str, str]) -> Pod:
    """Read the downward API's variables.

    Raises:
        InputError: one is missing or wrong; the message names it.
    """
    try:
        workload = Workload(
            namespace=_need(environment, POD_NAMESPACE_VARIABLE),
            service_account=_need(environment, SERVICE_ACCOUNT_VARIABLE),
        )
    except IdentityError as error:
        raise InputError(error.message, hint=f"see {POD_NAMESPACE_VARIABLE} and {SERVICE_ACCOUNT_VARIABLE}") from error
    words = [word.strip() for word in _need(environment, POD_IPS_VARIABLE).split(",")]
    if len(words) > MAX_POD_ADDRESSES:
        raise InputError(f"{POD_IPS_VARIABLE} holds more than {MAX_POD_ADDRESSES} addresses")
    return Pod(
        instance=name_instance(_need(environment, POD_NAME_VARIABLE), _need(environment, POD_UID_VARIABLE)),
        workload=workload,
        addresses=tuple(dict.fromkeys(parse_address(word) for word in words)),
    )


def read_probes(environment: Mapping[str, str]) -> tuple[ProbeTarget, ...]:
    """Read which probes injection has turned to the sidecar; none when the variable isn't there.

    Raises:
        InputError: the text isn't such a list, or two probes have the same path.
    """
    text = environment.get(PROBES_VARIABLE, "")
    if not text:
        return ()
    if len(text) > _MAX_PROBES_BYTES:
        raise InputError(f"{PROBES_VARIABLE} is longer than {_MAX_PROBES_BYTES} bytes")
    try:
        targets = _probes.decode(text)
    except (msgspec.DecodeError, InputError) as error:
        raise InputError(f"{PROBES_VARIABLE} can't be read: {error}"[:300]) from error
    if len(targets) > MAX_PROBES:
        raise InputError(f"{PROBES_VARIABLE} holds more than {MAX_PROBES} probes")
    paths = [target.request_path for target in targets]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"{PROBES_VARIABLE} holds {path} twice")
    return targets


def _need(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise InputError(f"the variable {name} isn't set", hint="injection sets it by the downward API")
    return value
