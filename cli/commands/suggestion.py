"""A namespace's missing rules as YAML to review: what ``touchmark policy suggest`` prints.

Belongs here: writing. Doesn't: which rules are missing (the CA's readiness says that). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.model.adoption.fixes import FixKind, add_rule
from shared.model.policy.documents import MeshPolicyDocument, format_documents, plain_rule
from shared.model.wire.admin import Cause, Readiness


def write_suggestion(readiness: Readiness, policies: Mapping[str, MeshPolicyDocument], *, target_options: str) -> str:
    """Write the policies with the rules that are missing, in a stable order: evidence and approvals as comments.

    Arguments:
        policies: those in force, by namespace.
    """
    from cli.commands.ready import describe_cause, describe_fix

    causes = sorted(readiness.causes, key=_order)
    parts: list[str] = []
    approvals = [each for each in causes if each.fix is not None and each.fix.kind is FixKind.APPROVE]
    if approvals:
        parts.append("# Programs that were seen and aren't approved. Review, then run:")
        for each in approvals:
            lines = describe_fix(each.fix, each.reason, path="", target_options=target_options)
            parts += [_comment(f"{line}  # {describe_cause(each)}") for line in lines]
    rules = [each for each in causes if each.fix is not None and each.fix.rule is not None]
    for namespace in sorted({each.fix.namespace for each in rules if each.fix is not None}):
        parts.append("---")
        parts.append(
            _write_policy(namespace, policies.get(namespace), [each for each in rules if _is_of(each, namespace)])
        )
    others = [each for each in causes if each not in approvals and each not in rules]
    if others:
        parts.append("# No rule and no approval changes these:")
        for each in others:
            for line in describe_fix(each.fix, each.reason, path="", target_options=target_options):
                parts.append(_comment(f"{each.reason}: {describe_cause(each)}: {line}"))
    parts += [_comment(f"not known: {each}") for each in readiness.unknowns]
    return "\n".join(parts) if parts else "# nothing is missing for what was seen"


def _write_policy(namespace: str, current: MeshPolicyDocument | None, causes: list[Cause]) -> str:
    import msgspec
    import yaml

    from cli.commands.ready import describe_cause

    kept = current or MeshPolicyDocument(namespace=namespace)
    whole, evidence = kept, {}
    for each in causes:
        if each.fix is not None and each.fix.rule is not None:
            whole = add_rule(whole, each.fix.rule)
            count = f"{each.connections} connection{'s' if each.connections != 1 else ''}"
            evidence[whole.rules[-1].name] = f"{count}, such as {describe_cause(each)}"
    head = format_documents([msgspec.structs.replace(kept, rules=(), trial=None)]).rstrip()
    lines = [f"{head.removesuffix(' {}')}\n  rules:"]
    for rule in whole.rules:
        if rule.name in evidence:
            lines.append(_comment(evidence[rule.name], indent="  "))
        text = yaml.safe_dump([plain_rule(rule)], sort_keys=False, allow_unicode=True, width=120)
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)


def _is_of(cause: Cause, namespace: str) -> bool:
    return cause.fix is not None and cause.fix.namespace == namespace


def _comment(text: str, *, indent: str = "") -> str:
    return "\n".join(f"{indent}# {line}" for line in text.splitlines())


def _order(cause: Cause) -> tuple[str, ...]:
    fix = cause.fix
    if fix is None:
        return ("3", cause.reason)
    name = fix.rule.name if fix.rule is not None else ""
    return (fix.kind, fix.namespace, fix.workload, fix.program, name, cause.reason, cause.source_workload)
