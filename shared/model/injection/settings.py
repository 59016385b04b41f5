"""The injection settings in a pod's annotations, read and checked. Pure.

Belongs here: each annotation's syntax, bounds and default. Doesn't: how they are used (``containers.py``), or where a
namespace says what holds for its pods (``defaults.py``).
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.model.errors import InputError
from shared.model.formats.line import LineFormat
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.kubernetes.contract import (
    CPU_LIMIT,
    CPU_REQUEST,
    DRAIN_SECONDS,
    EXCLUDE_INBOUND_PORTS,
    EXCLUDE_OUTBOUND_CIDRS,
    EXCLUDE_OUTBOUND_PORTS,
    GROUP,
    HOLD_CONNECTS,
    INJECT,
    INJECTED,
    LOG_FORMAT,
    LOG_LEVEL,
    MAX_WORKERS,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    MTLS_DESTINATION_PORTS,
    MTLS_PORTS,
    OWN_PORTS,
    WORKERS,
)
from shared.model.kubernetes.quantity import parse_quantity

KNOWN: Final = (
    INJECT, INJECTED, EXCLUDE_INBOUND_PORTS, EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_CIDRS, MTLS_PORTS,
    MTLS_DESTINATION_PORTS, HOLD_CONNECTS, DRAIN_SECONDS, WORKERS, LOG_LEVEL, LOG_FORMAT, CPU_REQUEST, CPU_LIMIT,
    MEMORY_REQUEST, MEMORY_LIMIT,
)  # fmt: skip
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = tuple(each.value for each in LineFormat)
MAX_EXCLUSIONS: Final = 64  # Each is an element of an nftables set, and a word on a command line.

# A quiet sidecar takes about 45 MiB; each thousand live connections and tunnels take some tens more.
DEFAULT_CPU_REQUEST: Final = "50m"
DEFAULT_MEMORY_REQUEST: Final = "64Mi"
DEFAULT_MEMORY_LIMIT: Final = "512Mi"
MIN_MEMORY_LIMIT: Final = "64Mi"
MAX_CPU: Final = "64"
MAX_MEMORY: Final = "64Gi"
MAX_DRAIN_S: Final = 3600
NO_LIMIT: Final = "none"  # Of CPU, where the namespace has a default for it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in a pod's annotations.

    Attributes:
        exclude_inbound_ports, exclude_outbound_ports: ports that are never captured, sorted.
        exclude_outbound_cidrs: networks towards which nothing is captured, in their canonical form.
        mtls_ports, mtls_destination_ports: ports of plain mTLS with foreign peers, served and dialled, sorted.
        holds_connects: when programs' ``connect()`` waits until the sidecar has looked at them: ``always``, ``auto``
            (where programs were gone too early for that) or ``never``.
        hold_ports: towards these ports only, sorted; empty for all.
        drain_s: how long live connections may finish when the pod ends; None for the sidecar's own default.
        workers: how many threads move the bytes of established connections; None for the sidecar's own default.
        log_level: of the sidecar; empty for its own default.
        log_format: of the decisions in its log; empty for its own default.
        cpu_request, memory_request, memory_limit: quantities as written.
        cpu_limit: the same; empty for none, so that a burst isn't throttled.
    """

    exclude_inbound_ports: tuple[int, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    exclude_outbound_cidrs: tuple[str, ...] = ()
    mtls_ports: tuple[int, ...] = ()
    mtls_destination_ports: tuple[int, ...] = ()
    holds_connects: str = "never"
    hold_ports: tuple[int, ...] = ()
    drain_s: int | None = None
    workers: int | None = None
    log_level: str = ""
    log_format: str = ""
    cpu_request: str = DEFAULT_CPU_REQUEST
    cpu_limit: str = ""
    memory_request: str = DEFAULT_MEMORY_REQUEST
    memory_limit: str = DEFAULT_MEMORY_LIMIT


BUILT_IN: Final = Settings()


def read_settings(annotations: Mapping[str, str], defaults: Settings = BUILT_IN) -> Settings:
    """Read a pod's annotations; those of others are left alone.

    Arguments:
        defaults: where the pod says nothing. What contradicts the pod's own word gives way.

    Raises:
        InjectionRefusedError: one of ours is unknown, malformed, or contradicts another one.
    """
    for name in annotations:
        if name.startswith(f"{GROUP}/") and name not in KNOWN:
            raise describe_unknown(name)
    holds_connects, hold_ports = _read_hold(annotations)
    inbound = _read_ports(annotations, EXCLUDE_INBOUND_PORTS)
    outbound = _read_ports(annotations, EXCLUDE_OUTBOUND_PORTS)
    served = _read_mtls_ports(annotations, MTLS_PORTS, EXCLUDE_INBOUND_PORTS)
    dialled = _read_mtls_ports(annotations, MTLS_DESTINATION_PORTS, EXCLUDE_OUTBOUND_PORTS)
    if HOLD_CONNECTS not in annotations:
        holds_connects, hold_ports = defaults.holds_connects, _leave_out(defaults.hold_ports, outbound)
        if defaults.hold_ports and not hold_ports:  # No ports would mean all of them.
            holds_connects = "never"
    if EXCLUDE_INBOUND_PORTS not in annotations:
        inbound = _leave_out(defaults.exclude_inbound_ports, served)
    if EXCLUDE_OUTBOUND_PORTS not in annotations:
        own = hold_ports if HOLD_CONNECTS in annotations else ()
        outbound = _leave_out(defaults.exclude_outbound_ports, (*dialled, *own))
    if MTLS_PORTS not in annotations:
        served = _leave_out(defaults.mtls_ports, inbound)
    if MTLS_DESTINATION_PORTS not in annotations:
        dialled = _leave_out(defaults.mtls_destination_ports, outbound)
    has_cidrs = EXCLUDE_OUTBOUND_CIDRS in annotations
    return Settings(
        exclude_inbound_ports=inbound,
        exclude_outbound_ports=outbound,
        exclude_outbound_cidrs=(
            _read_cidrs(annotations, EXCLUDE_OUTBOUND_CIDRS) if has_cidrs else defaults.exclude_outbound_cidrs
        ),
        mtls_ports=served,
        mtls_destination_ports=dialled,
        holds_connects=holds_connects,
        hold_ports=hold_ports,
        drain_s=_read_drain(annotations) if DRAIN_SECONDS in annotations else defaults.drain_s,
        workers=_read_workers(annotations) if WORKERS in annotations else defaults.workers,
        log_level=_read_word(annotations, LOG_LEVEL, "level", LOG_LEVELS, defaults.log_level),
        log_format=_read_word(annotations, LOG_FORMAT, "format", LOG_FORMATS, defaults.log_format),
        **_read_resources(annotations, defaults),
    )


def describe_unknown(name: str) -> InjectionRefusedError:
    """Return the refusal of an annotation with our prefix that isn't one of ours."""
    close = difflib.get_close_matches(name, KNOWN, n=1)
    return InjectionRefusedError(
        InjectionRefusal.UNKNOWN_ANNOTATION,
        "unknown Touchmark annotation",
        path=_path(name),
        hint=f"did you mean {close[0]}?" if close else "",
    )


def _leave_out(inherited: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, ...]:
    """Return the namespace's ports but for those of which the pod itself says the contrary."""
    return tuple(port for port in inherited if port not in own)


def _read_ports(annotations: Mapping[str, str], name: str) -> tuple[int, ...]:
    ports = set()
    for word in _split(annotations, name):
        if not (word.isascii() and word.isdigit() and len(word) <= 5 and 1 <= int(word) <= 65535):
            raise _bad(name, f"not a port: {word[:80]!r}", "write ports from 1 to 65535, separated by commas")
        ports.add(int(word))
    return tuple(sorted(ports))


def _read_mtls_ports(annotations: Mapping[str, str], name: str, exclusions: str) -> tuple[int, ...]:
    """Read ports of plain mTLS; one that isn't captured would silently be served or dialled in plaintext."""
    ports = _read_ports(annotations, name)
    if own := sorted(OWN_PORTS.intersection(ports)):
        raise _bad(name, f"port {own[0]} is reserved for the sidecar", "")
    if excluded := sorted(set(ports).intersection(_read_ports(annotations, exclusions))):
        raise _bad(name, f"port {excluded[0]} is also in {exclusions}", "a port can't be both mTLS and excluded")
    return ports


def _read_hold(annotations: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    word = annotations.get(HOLD_CONNECTS, "").strip()
    known = {"": "never", "false": "never", "true": "always", "auto": "auto"}
    if word in known:
        return known[word], ()
    ports = _read_ports(annotations, HOLD_CONNECTS)
    if excluded := sorted(set(ports).intersection(_read_ports(annotations, EXCLUDE_OUTBOUND_PORTS))):
        hint = "what isn't captured isn't looked at"
        raise _bad(HOLD_CONNECTS, f"port {excluded[0]} is also in {EXCLUDE_OUTBOUND_PORTS}", hint)
    return "always", ports


def _read_cidrs(annotations: Mapping[str, str], name: str) -> tuple[str, ...]:
    networks: dict[str, None] = {}
    for word in _split(annotations, name):
        try:
            networks[str(ipaddress.ip_network(word))] = None
        except ValueError as error:
            hint = "write networks such as 10.0.0.0/8 or 2001:db8::/32, without host bits"
            raise _bad(name, f"not a network: {word[:80]!r}", hint) from error
    return tuple(networks)


def _split(annotations: Mapping[str, str], name: str) -> list[str]:
    text = annotations.get(name, "").strip()
    words = [word.strip() for word in text.split(",")] if text else []
    if len(words) > MAX_EXCLUSIONS:
        raise _bad(name, f"{len(words)} entries; at most {MAX_EXCLUSIONS} are allowed", "")
    return words


def _read_word(annotations: Mapping[str, str], name: str, kind: str, words: tuple[str, ...], default: str) -> str:
    word = annotations.get(name, default)
    if word and word not in words:
        raise _bad(name, f"not a {kind}: {word[:80]!r}", f"one of {', '.join(words)}")
    return word


def _read_drain(annotations: Mapping[str, str]) -> int:
    text = annotations[DRAIN_SECONDS]
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= MAX_DRAIN_S):
        raise _bad(DRAIN_SECONDS, f"not seconds: {text[:80]!r}", f"a whole number from 0 to {MAX_DRAIN_S}")
    return int(text)


def _read_workers(annotations: Mapping[str, str]) -> int:
    text = annotations[WORKERS]
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= MAX_WORKERS):
        raise _bad(WORKERS, f"not a number of threads: {text[:80]!r}", f"a whole number from 1 to {MAX_WORKERS}")
    return int(text)


def _read_resources(annotations: Mapping[str, str], defaults: Settings) -> dict[str, str]:
    cpu_default = defaults.cpu_limit
    if annotations.get(CPU_LIMIT) == NO_LIMIT:
        annotations = {name: text for name, text in annotations.items() if name != CPU_LIMIT}
        cpu_default = ""
    cpu_request, cpu_limit = _read_pair(
        annotations, CPU_REQUEST, CPU_LIMIT, defaults.cpu_request, cpu_default, MAX_CPU
    )  # fmt: skip
    memory_request, memory_limit = _read_pair(
        annotations, MEMORY_REQUEST, MEMORY_LIMIT, defaults.memory_request, defaults.memory_limit, MAX_MEMORY
    )
    if parse_quantity(memory_limit) < parse_quantity(MIN_MEMORY_LIMIT):
        raise _bad(MEMORY_LIMIT, f"a sidecar can't start in {memory_limit}", f"{MIN_MEMORY_LIMIT} or more")
    return {
        "cpu_request": cpu_request,
        "cpu_limit": cpu_limit,
        "memory_request": memory_request,
        "memory_limit": memory_limit,
    }


def _read_pair(
    annotations: Mapping[str, str], request_name: str, limit_name: str, request: str, limit: str, most: str
) -> tuple[str, str]:
    """Read a request and its limit; a missing one follows the given one, so that they can't contradict each other."""
    for name in (request_name, limit_name):
        if name in annotations:
            try:
                value = parse_quantity(annotations[name])
            except InputError as error:
                raise _bad(name, error.message, error.hint) from error
            if not 0 < value <= parse_quantity(most):
                raise _bad(name, f"{annotations[name]} is out of bounds", f"more than 0, at most {most}")
    given_request, given_limit = annotations.get(request_name), annotations.get(limit_name)
    if given_request is not None and given_limit is not None:
        if parse_quantity(given_request) > parse_quantity(given_limit):
            raise _bad(request_name, f"{given_request} is more than the limit, {given_limit}", "")
        return given_request, given_limit
    if given_request is not None:
        is_above = bool(limit) and parse_quantity(given_request) > parse_quantity(limit)
        return given_request, given_request if is_above else limit
    if given_limit is not None:
        is_below = parse_quantity(given_limit) < parse_quantity(request)
        return given_limit if is_below else request, given_limit
    return request, limit


def _bad(name: str, message: str, hint: str) -> InjectionRefusedError:
    return InjectionRefusedError(InjectionRefusal.BAD_ANNOTATION, message, path=_path(name), hint=hint)


def _path(name: str) -> str:
    return f'metadata.annotations["{name}"]'
