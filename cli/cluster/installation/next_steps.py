"""What to do once Touchmark is installed: what ``touchmark install`` ends with, and the Helm chart's notes. Pure."""

from __future__ import annotations

from shared.model.kubernetes.contract import INJECT


def list_next_steps(where: str) -> list[str]:
    """Return commands for a shell, each with what it is for.

    Arguments:
        where: the options that name the CA to ``touchmark``, such as ``-k``.
    """
    return [
        f"touchmark doctor {where}    # is all of it well? Each ✗ comes with what to do",
        f"kubectl label namespace NAMESPACE {INJECT}=true    # new pods get a sidecar, in permissive mode",
        "kubectl rollout restart deployment --namespace NAMESPACE    # those that run have none yet",
        f"touchmark status {where}    # who is in the mesh",
        f"touchmark decisions --would-deny {where}    # what explicit mode would refuse, and why",
        f"touchmark ready NAMESPACE {where}    # what is missing for explicit mode, each with its fix",
    ]
