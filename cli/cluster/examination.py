"""What a cluster's answers mean for Touchmark: findings, each with a hint. Pure.

Belongs here: the installation, the webhook, the CA's pods and rights. Doesn't: the requests (``snapshot.py``), what
keeps pods out of the mesh (``membership.py``), or what the CA says of itself (``cli/admin/overview.py``).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from cli.admin.observation import Observation
from cli.admin.overview import examine, examine_skew
from cli.cluster.ca_pod import describe_state, is_ready
from cli.cluster.faults import INSTALL_HINT
from cli.cluster.membership import describe_unknown, examine_membership, list_images
from cli.cluster.snapshot import ClusterSnapshot
from cli.text.findings import Finding
from cli.text.output import name_some
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import POLICY_WEBHOOK, WEBHOOK_CONFIGURATION
from shared.model.policy.rules import Mode

API_VERSION: Final = "v1alpha1"
# ValidatingAdmissionPolicy and webhooks' matchConditions are in v1 from it on; native sidecars from 1.29 on.
OLDEST_KUBERNETES: Final = (1, 30)


def examine_cluster(snapshot: ClusterSnapshot, *, own_version: str) -> list[Finding]:
    """Return all findings, the installation first; where there is none, nothing else: each check would say the same."""
    findings = [
        examine_version(snapshot.version),
        *([] if snapshot.api_skew_s is None else [examine_skew("this machine", "the API server", snapshot.api_skew_s)]),
    ]
    if _is_absent(snapshot):
        hint = "`touchmark doctor --pre` says whether it can be installed, `touchmark install` installs it"
        return [*findings, Finding(subject="installation", is_well=False, observation="there is none", hint=hint)]
    findings += [
        *([] if snapshot.ca_skew_s is None else [examine_skew("this machine", "the CA", snapshot.ca_skew_s)]),
        _examine_definitions(snapshot),
        _examine_webhook(snapshot),
        _examine_admission_policies(snapshot),
        _examine_ca_pods(snapshot),
        _examine_rights(snapshot),
        _examine_trial(snapshot),
        *examine_membership(snapshot),
        *_examine_modes(snapshot),
    ]
    if isinstance(snapshot.observed, TouchmarkError):
        return [*findings, describe_unknown("CA's status", snapshot.observed, is_optional=False)]
    has_pods = not isinstance(snapshot.pods, TouchmarkError)
    for finding in examine(snapshot.observed, own_version=own_version):
        if finding.subject != "injection" or not has_pods:  # Else the pods themselves have just shown it.
            findings.append(finding)
    return findings


def _is_absent(snapshot: ClusterSnapshot) -> bool:
    """Return whether a cluster has nothing of Touchmark; what can't be asked may be there."""
    return (
        not isinstance(snapshot.definitions, TouchmarkError)
        and all(definition is None for definition in snapshot.definitions.values())
        and snapshot.webhook is None
        and not snapshot.ca_pods
    )


def examine_version(version: str) -> Finding:
    """Return whether an API server is new enough; a version that can't be read counts as one that is."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    is_well = found is None or (int(found[1]), int(found[2])) >= OLDEST_KUBERNETES
    oldest = ".".join(map(str, OLDEST_KUBERNETES))
    return Finding(
        subject="API server",
        is_well=is_well,
        observation=f"answers, {version}" if is_well else f"is {version}, older than {oldest}",
        hint="" if is_well else f"upgrade to Kubernetes {oldest} or newer: older ones lack admission policies",
    )


# ---- the installation ------------------------------------------------------------------------------------------------


def _examine_definitions(snapshot: ClusterSnapshot) -> Finding:
    subject = "resources"
    if isinstance(snapshot.definitions, TouchmarkError):
        return describe_unknown(subject, snapshot.definitions)
    faults = []
    for name, definition in snapshot.definitions.items():
        if definition is None:
            faults.append(f"{name} isn't installed")
            continue
        versions = {each.get("name"): each for each in (definition.get("spec") or {}).get("versions") or ()}
        conditions = (definition.get("status") or {}).get("conditions") or ()
        if not versions.get(API_VERSION, {}).get("served"):
            faults.append(f"{name} isn't served as {API_VERSION}, only as {', '.join(map(str, versions)) or 'none'}")
        elif not any(each.get("type") == "Established" and each.get("status") == "True" for each in conditions):
            faults.append(f"{name} isn't established")
    return Finding(
        subject=subject,
        is_well=not faults,
        observation="; ".join(faults) or f"{', '.join(snapshot.definitions)} in {API_VERSION}",
        hint=INSTALL_HINT if faults else "",
    )


def _examine_webhook(snapshot: ClusterSnapshot) -> Finding:
    subject = "webhook configuration"
    if isinstance(snapshot.webhook, TouchmarkError):
        return describe_unknown(subject, snapshot.webhook)
    if snapshot.webhook is None:
        return Finding(
            subject=subject,
            is_well=False,
            observation=f"{WEBHOOK_CONFIGURATION} doesn't exist: no pod is injected",
            hint=INSTALL_HINT,
        )
    webhooks = snapshot.webhook.get("webhooks") or []
    pins = [read_pins((each.get("clientConfig") or {}).get("caBundle") or "") for each in webhooks]
    lax = [
        str(each.get("name"))
        for each in webhooks
        if each.get("failurePolicy") == "Ignore" and each.get("name") != POLICY_WEBHOOK
    ]
    fault = ""
    if not webhooks:
        fault = "contains no webhook"
    elif not all(pins):
        fault = "has no caBundle yet: pods that ask for injection are refused until the CA writes it"
    elif isinstance(snapshot.observed, Observation) and not all(snapshot.observed.ca.root_pin in each for each in pins):
        fault = "its caBundle isn't the CA's current root: the API server rejects the webhook's certificate"
    elif lax:
        fault = f"{', '.join(lax)} doesn't fail closed: pods that ask for injection may start without it"
    return Finding(
        subject=subject,
        is_well=not fault,
        observation=fault or f"{len(webhooks)} webhooks, and the API server trusts their certificate",
        hint="the CA maintains caBundle: check its log and permissions; for the rest: " + INSTALL_HINT if fault else "",
    )


def _examine_admission_policies(snapshot: ClusterSnapshot) -> Finding:
    subject = "admission policies"
    if isinstance(snapshot.admission_policies, TouchmarkError):
        return describe_unknown(subject, snapshot.admission_policies)
    faults = []
    for name, (policy, binding) in snapshot.admission_policies.items():
        if policy is None or binding is None:
            faults.append(f"{name} {'has no binding' if policy is not None else 'is missing'}")
        elif (policy.get("spec") or {}).get("failurePolicy", "Fail") != "Fail":
            faults.append(f"{name} doesn't fail closed")
        elif "Deny" not in ((binding.get("spec") or {}).get("validationActions") or ()):
            faults.append(f"{name} is bound without Deny")
    return Finding(
        subject=subject,
        is_well=not faults,
        observation="; ".join(faults) or f"{', '.join(snapshot.admission_policies)} in force",
        hint="without them, who may exec into pods or make service accounts' tokens can act as a sidecar or the CA; "
        + INSTALL_HINT
        if faults
        else "",
    )


def read_pins(bundle: str) -> frozenset[str]:
    """Return the SHA-256 of each certificate's public key in a ``caBundle``; empty when there is none to read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        certificates = x509.load_pem_x509_certificates(base64.b64decode(bundle))
    except ValueError:
        return frozenset()
    keys = (each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in certificates)
    return frozenset(hashlib.sha256(key).hexdigest() for key in keys)


def _examine_ca_pods(snapshot: ClusterSnapshot) -> Finding:
    subject = "CA's pods"
    if isinstance(snapshot.ca_pods, TouchmarkError):
        return describe_unknown(subject, snapshot.ca_pods, is_optional=False)
    ready = [pod for pod in snapshot.ca_pods if is_ready(pod)]
    others = [f"{pod['metadata']['name']}: {describe_state(pod)}" for pod in snapshot.ca_pods if not is_ready(pod)]
    said = f"{len(ready)} of {len(snapshot.ca_pods)} ready in {snapshot.system_namespace}"
    if not snapshot.ca_pods:
        said = f"none in {snapshot.system_namespace}"
    images = sorted({image for pod in ready for image in list_images(pod, ("ca",))})
    return Finding(
        subject=subject,
        is_well=bool(ready) and not others,
        is_optional=bool(ready),
        observation="; ".join([said + (f", {', '.join(images)}" if images else ""), *others]),
        hint=""
        if ready and not others
        else f"kubectl -n {snapshot.system_namespace} describe pods"
        if snapshot.ca_pods
        else INSTALL_HINT,
    )


def _examine_rights(snapshot: ClusterSnapshot) -> Finding:
    subject = "CA's permissions"
    if isinstance(snapshot.missing_rights, TouchmarkError):
        return describe_unknown(subject, snapshot.missing_rights)
    missing = name_some((str(right) for right in snapshot.missing_rights), most=10)
    return Finding(
        subject=subject,
        is_well=not missing,
        observation=f"missing: {missing}" if missing else "complete",
        hint="`touchmark upgrade` (or what you installed it with: kubectl apply -k, Helm) restores its roles"
        if missing
        else "",
    )


def _examine_modes(snapshot: ClusterSnapshot) -> list[Finding]:
    """Find explicit modes that no object says: of a MeshPolicy, or a whole namespace, that was deleted."""
    if isinstance(snapshot.observed, TouchmarkError) or isinstance(snapshot.saying, TouchmarkError):
        return []
    explicit = {
        state.namespace
        for state in snapshot.observed.namespaces
        if state.mode is Mode.EXPLICIT or any(each.mode is Mode.EXPLICIT for each in state.workload_modes)
    }
    subject = "modes"
    if not (unsaid := sorted(explicit - snapshot.saying)):
        said = f"explicit in {len(explicit)} namespace{'' if len(explicit) == 1 else 's'}, as their MeshPolicies say"
        return [Finding(subject=subject, is_well=True, observation=said if explicit else "explicit in no namespace")]
    return [
        Finding(
            subject=subject,
            is_well=False,
            is_optional=True,
            observation=f"explicit, though no MeshPolicy says so: {name_some(unsaid)}; a deletion leaves the mode",
            hint=f"`touchmark mode {unsaid[0]} explicit -k` writes one that does; permissive in its place ends it",
        )
    ]


def _examine_trial(snapshot: ClusterSnapshot) -> Finding:
    subject = "webhook"
    asked = f"a dry-run pod in {snapshot.trial_namespace}"
    if snapshot.trial is True:
        return Finding(subject=subject, is_well=True, observation=f"answers: {asked} got its sidecar")
    if snapshot.trial is False:
        return Finding(
            subject=subject,
            is_well=False,
            observation=f"{asked} got no sidecar: the API server didn't call the webhook",
            hint=f"does {WEBHOOK_CONFIGURATION} select the namespace {snapshot.trial_namespace}?",
        )
    said = snapshot.trial.message
    if "failed calling webhook" in said:
        return Finding(
            subject=subject,
            is_well=False,
            observation=f"the API server can't reach it: {said}",
            hint="check that the CA's pods are ready, that caBundle is right, and that the API server can reach"
            " TCP port 15444 of these pods",
        )
    if "denied the request" in said or "violates PodSecurity" in said:
        return Finding(subject=subject, is_well=True, observation=f"answers; {asked} is refused: {said}")
    return describe_unknown(subject, snapshot.trial)
