"""``touchmark explain``: what both sides would say of a connection, and what would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import options
from cli.text.json_result import JsonResult, prints

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cli.admin.client import AdminClient
    from cli.cluster.observation.named_ends import NamedEnd
    from shared.model.adoption.explain import Explained, SideAnswer
    from shared.model.policy.decision import PartyRecord
    from shared.model.policy.rules import NamespaceState
    from shared.model.wire.admin import SidecarView

_EXPLAINED: JsonResult[Explained] = JsonResult()
_MAX_DECISIONS = 10_000
_NO_PORT = ":0"  # Who asks about an address names the destination's port apart.
_SERVICE_SEEN_S = 7 * 86_400.0
_PORT_HINT = "write shop/db:5432, 192.0.2.7:443, [2001:db8::7]:443 or api.example.com:443"


@prints(_EXPLAINED)
def explain(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="NAMESPACE/SERVICE-ACCOUNT[@PROGRAM], NAMESPACE/POD, address, host, SPIFFE ID; or a decision's number."
            " With -k: pod/NAMESPACE/NAME."
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            help="The same or NAMESPACE/SERVICE, with :PORT; not with a decision's number. With -k:"
            " svc/NAMESPACE/NAME[:PORT]."
        ),
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="With -k: of a pod/NAME or svc/NAME.", show_default=False)
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Say what both ends' sidecars decide about a connection, by which rule, and what would change it.

    It is the evaluator that sidecars enforce with, on the rules and approvals in force. Without @PROGRAM the workload's
    only approved program is taken. An address is whoever the CA lists there, a pod (or another sidecar's name) whoever
    runs there, a Service what it was seen to lead to in the last seven days, at the backend's port. With -k
    pod/NAMESPACE/NAME and svc/NAMESPACE/NAME are looked up in the cluster, with your own rights: a pod is its workload,
    a Service its pods' workload at their target port, and what has no sidecar is a stranger at its address. A host name
    matches rules that name that host; what it resolves to isn't looked up, and an address matches no rule's host.
    Attestation and whether anything listens aren't looked at. Exit code 3: it is refused; 10: it would be allowed, but
    nobody knows a workload of that name: none of its sidecars has joined, and none of its programs is approved.

    Examples: touchmark explain shop/web shop/db:5432 · touchmark explain bank/teller@sha256:DIGEST shop/web:80 ·
    touchmark explain shop/web 192.0.2.7:443 · touchmark explain shop/web api.example.com:443 ·
    touchmark explain pod/shop/web-0 svc/shop/db:5432 -k · touchmark explain pod/web-0 svc/db -n shop -k ·
    touchmark explain 4711 -k
    """
    import os

    import msgspec

    from cli.backends.session import ask_admin, find_named_end
    from cli.backends.target import write_shell_options
    from cli.text.exit_codes import ExitCode
    from cli.text.output import print_line
    from shared.model.adoption.explain import ResolvedName

    target = options.get_target(context)

    async def ask(client: AdminClient) -> tuple[Explained, frozenset[str], tuple[str, ...], list[str]]:
        ends = [await find_named_end(target, text, namespace) for text in (source, destination)]
        dialling, dialled = write_source(source, ends[0]), write_destination(destination, ends[1])
        explained, known, hosts, named = await _explain(client, dialling, dialled)
        looked_up = tuple(
            ResolvedName(asked=text, end=end.text, port=end.port)
            for text, end in zip((source, destination), ends, strict=True)
            if end is not None
        )
        explained = msgspec.structs.replace(explained, resolved=looked_up + explained.resolved)
        return explained, known, hosts, [*(end.note for end in ends if end is not None), *named]

    explained, known, hosts, named = ask_admin(target, ask)
    if as_json:
        _EXPLAINED.print(explained)
    else:
        options_text = write_shell_options(target, os.environ)
        notes = (
            *named,
            *describe_hosts(explained, hosts),
            *describe_unapproved(explained, known, target_options=options_text),
            *describe_unknown(explained, known),
        )
        for line in (*describe(explained, target_options=options_text), *notes):
            print_line(line)
    if not explained.allowed:
        raise typer.Exit(ExitCode.CHECK_FAILED)
    if explained.unknown:
        raise typer.Exit(ExitCode.UNKNOWN)


async def _explain(
    client: AdminClient, source: str, destination: str
) -> tuple[Explained, frozenset[str], tuple[str, ...], list[str]]:
    """Return the answers, which workloads are known, the hosts that rules of the source's namespace name, and notes."""
    import msgspec

    from cli.text.printable import escape
    from shared.model.adoption.explain import ResolvedName
    from shared.model.adoption.explain import explain as ask

    states = {state.namespace: state for state in (await client.list_namespaces()).namespaces}
    if not destination:
        return await _explain_decision(client, source, states), frozenset(), (), []
    sidecars = (await client.list_sidecars()).sidecars
    name, port = split_port(destination)
    known = list_known(states, sidecars)
    named: list[str] = []
    resolved: list[ResolvedName] = []
    asked = source, name
    source, name = (name_pods_workload(each, known, sidecars) for each in asked)
    if name == asked[1] and _is_unknown(name, known):
        name, port = await _find_backend(client, name, port)
    for before, after in zip(asked, (source, name), strict=True):
        if before != after:
            is_dialled = before is asked[1]
            named.append(escape(f"{before} is {after}" + (f", port {port}" if is_dialled else "")))
            resolved.append(ResolvedName(asked=before, end=after, port=port if is_dialled else None))
    ends = read_end(source, states, sidecars), read_end(name, states, sidecars)
    unknown = dict.fromkeys(end.workload for end in ends if end.workload and end.workload not in known)
    state = states.get(ends[0].workload.partition("/")[0])
    rules = state.rules if state else ()
    hosts = tuple(dict.fromkeys(host for rule in rules for peer in rule.peers for host in peer.hosts))
    explained = ask(*ends, port, states)
    explained = msgspec.structs.replace(explained, unknown=tuple(unknown), resolved=tuple(resolved))
    return explained, known, hosts, named


def _is_unknown(text: str, known: frozenset[str]) -> bool:
    return "/" in text and not text.startswith("spiffe://") and text.partition("@")[0] not in known


def name_pods_workload(text: str, known: frozenset[str], sidecars: Iterable[SidecarView]) -> str:
    """Return the workload that runs in a pod, or under another sidecar's name; anything else as it is."""
    if not _is_unknown(text, known):
        return text
    name, at, program = text.partition("@")
    namespace, _, instance = name.partition("/")
    for each in sidecars:
        if each.instance == instance and each.workload.startswith(f"{namespace}/"):
            return each.workload + at + program
    return text


async def _find_backend(client: AdminClient, name: str, port: int) -> tuple[str, int]:
    """Return what a Service was seen to lead to, with the backend's port; as it was where that isn't one workload."""
    import time

    from shared.model.errors import TouchmarkError
    from shared.model.wire.admin_edges import MAX_EDGES_LISTED

    since = str(time.time() - _SERVICE_SEEN_S)
    try:
        listed = await client.list_edges(name.partition("/")[0], {"since": since, "limit": str(MAX_EDGES_LISTED)})
    except TouchmarkError:
        return name, port
    found = {
        (edge.destination.workload, edge.port)
        for edge in listed.edges
        for outcome in edge.outcomes
        if edge.destination.workload and outcome.service == f"{name}:{port}"
    }
    return found.pop() if len(found) == 1 else (name, port)


async def _explain_decision(client: AdminClient, number: str, states: dict[str, NamespaceState]) -> Explained:
    from shared.model.adoption.explain import explain as ask
    from shared.model.errors import InputError, NotFoundError

    if not number.removeprefix("#").isdigit():
        raise InputError("give a source and a destination, or a decision's number", hint="touchmark explain --help")
    wanted = int(number.removeprefix("#"))
    found = await client.list_decisions({"limit": str(_MAX_DECISIONS)})
    for view in found.decisions:
        if view.id == wanted:
            record = view.record
            return ask(record.source, record.destination, record.port, states, reporter=record.direction)
    raise NotFoundError(
        f"no decision {wanted} among the last {_MAX_DECISIONS}", hint="`touchmark decisions --detail` shows the numbers"
    )


def write_source(text: str, end: NamedEnd | None) -> str:
    """Return who connects as a text that ``read_end`` takes.

    Arguments:
        end: what a pod's or a Service's name was resolved to; None: the text isn't such a name.

    Raises:
        InputError: it has a port, as destinations do.
    """
    from shared.model.errors import InputError

    if end is None:
        return text
    if end.port is not None:
        raise InputError(f"{text} is where one connects to", hint="name who connects by a workload or a pod, no port")
    return end.text


def write_destination(text: str, end: NamedEnd | None) -> str:
    """Return a destination as a text that ``split_port`` takes. Arguments and errors as above."""
    from shared.model.errors import InputError

    if end is None:
        return text
    if end.port is None:
        raise InputError(f"{text!r} names no port", hint=f"{text}:5432")
    return f"{end.text}:{end.port}"


def split_port(text: str) -> tuple[str, int]:
    """Split ``END:PORT``; an IPv6 address is in brackets.

    Raises:
        InputError: there is no port of 1 to 65535.
    """
    from shared.model.errors import InputError

    name, _, port = text.rpartition(":")
    if not name or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InputError(f"{text!r} names no port", hint=_PORT_HINT)
    return name.strip("[]"), int(port)


def read_end(text: str, states: dict[str, NamespaceState], sidecars: tuple[SidecarView, ...]) -> PartyRecord:
    """Return an end as records show it: a workload with its program, whoever is at an address, a host, or a foreigner.

    Raises:
        InputError: a workload has several approved programs, and none is named; a host's name isn't one.
    """
    import ipaddress

    from shared.model.identity.foreign import parse_foreign_id
    from shared.model.identity.identity import parse_workload
    from shared.model.policy.decision import PartyRecord
    from shared.model.policy.host_name import check_host

    if text.startswith("spiffe://"):
        return PartyRecord(identity=str(parse_foreign_id(text)))
    name, _, program = text.partition("@")
    try:
        address = str(ipaddress.ip_address(name))
    except ValueError:
        if "/" not in name and "." in name:
            return PartyRecord(hosts=(check_host(name),), why="peer_unidentified")
        return _read_workload(str(parse_workload(name)), program, states)
    listed = next((each.workload for each in sidecars if address in each.addresses), "")
    if listed:
        return _read_workload(listed, program, states)
    endpoint = f"[{address}]" if ":" in address else address
    return PartyRecord(address=endpoint + _NO_PORT, why="peer_unidentified")


def _read_workload(workload: str, program: str, states: dict[str, NamespaceState]) -> PartyRecord:
    from shared.model.errors import InputError
    from shared.model.identity.program import parse_program
    from shared.model.policy.decision import PartyRecord
    from shared.model.policy.rules import NamespaceState

    namespace, _, account = workload.partition("/")
    state = states.get(namespace, NamespaceState(namespace=namespace))
    approved = [str(each.program) for each in state.approvals if each.service_account == account]
    if program:
        chosen = str(parse_program(program))
    elif len(approved) == 1:
        chosen = approved[0]
    elif approved:
        raise InputError(
            f"{workload} has {len(approved)} approved programs: which one?",
            hint=f"write {workload}@{approved[0]}; `touchmark program list {namespace}` has all",
        )
    else:
        chosen = ""
    return PartyRecord(workload=workload, listed=workload, program=chosen, why="" if chosen else "peer_unidentified")


def describe(explained: Explained, *, target_options: str) -> list[str]:
    """Write what both sides say, a line each."""
    from cli.text.decision import describe_party
    from cli.text.output import shorten
    from cli.text.printable import escape

    ends = [
        f"{describe_party(end)} {shorten(end.program)}" if end.program else describe_party(end).removesuffix(_NO_PORT)
        for end in (explained.source, explained.destination)
    ]
    verdict = "allowed" if explained.allowed else "REFUSED"
    lines = [escape(f"{ends[0]} → {ends[1]}, port {explained.port}: {verdict}")]
    if not explained.sides:
        lines.append("neither end is in the mesh: no sidecar is asked")
    for side in explained.sides:
        lines += _describe_side(side, target_options=target_options)
    return lines


def describe_hosts(explained: Explained, hosts: tuple[str, ...]) -> list[str]:
    """Say that an address was refused without a look at the rules that name hosts, where there are any."""
    from cli.text.output import name_some
    from cli.text.printable import escape

    asked = explained.destination
    if not hosts or not asked.address.endswith(_NO_PORT) or explained.allowed:
        return []
    named = escape(name_some(hosts))
    return [f"? an address matches no rule's host, whatever a name resolves to: ask about the host instead ({named})"]


def list_known(states: Mapping[str, NamespaceState], sidecars: Iterable[SidecarView]) -> frozenset[str]:
    """Return the workloads that the CA knows: their sidecars have joined, programs are approved, or they have modes."""
    from shared.model.policy.modes import read_modes

    known = {each.workload for each in sidecars}
    for state in states.values():
        names = {each.service_account for each in state.approvals} | set(read_modes(state.workload_modes))
        known |= {f"{state.namespace}/{name}" for name in names}
    return frozenset(known)


def describe_unapproved(explained: Explained, known: frozenset[str], *, target_options: str) -> list[str]:
    """Say which known workload has no approved program, so that the answer is that for one without a certificate."""
    from cli.backends.target import add_options
    from cli.text.printable import escape

    names = dict.fromkeys(
        end.workload for end in (explained.source, explained.destination) if end.workload in known and not end.program
    )
    lines = []
    for name in names:
        command = add_options(f"touchmark program approve {name} --from-decisions", target_options)
        lines.append(escape(f"? no program of {name} is approved, so that it has no certificate here: `{command}`,"))
        lines.append(escape(f"    or ask about one of its programs: {name}@sha256:DIGEST"))
    return lines


def describe_unknown(explained: Explained, known: frozenset[str]) -> list[str]:
    """Say which workload nobody knows, and what that means for the answer, a line each."""
    from difflib import get_close_matches

    from cli.text.printable import escape

    lines = []
    for name in explained.unknown:
        close = get_close_matches(name, sorted(known), n=1)
        lines.append(
            escape(
                f"? {name} isn't known: none of its sidecars has joined, and none of its programs is approved"
                + (f" (did you mean {close[0]}?)" if close else "")
            )
        )
        lines.append("    the answer is that for a workload of this name with a sidecar; without one it is a stranger:")
        lines.append("    ask about its address instead")
    return lines


def _describe_side(side: SideAnswer, *, target_options: str) -> list[str]:
    from cli.commands.ready import describe_fix
    from shared.model.policy.reasons import EXPLANATIONS

    verdict = side.verdict
    answer = "allow" if verdict.allowed else "DENY"
    if verdict.would_deny:
        answer += " (would deny)"
    rule = f" by {verdict.rule}" if verdict.rule else ""
    where = "source" if side.side == "egress" else "destination"
    lines = [
        (
            f"  {where}'s side ({side.namespace}, {verdict.mode}, version {verdict.policy_version}): {answer},"
            f" {verdict.reason}{rule}"
        ),
        f"    {EXPLANATIONS[verdict.reason].cause}",
    ]
    if verdict.allowed and side.in_explicit is not None:
        lines.append(f"    explicit mode would refuse it: {side.in_explicit}")
    for reason, fix in side.missing:
        lines.append(f"    {reason}:")
        lines += [f"      {line}" for line in describe_fix(fix, reason, path="", target_options=target_options)]
    return lines
