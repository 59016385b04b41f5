"""``python -m scripts.kubernetes api|releases|node``: prepare what these tests need; quick when it exists already.

``api`` looks at ``K8S`` (`binaries.list_api`); ``releases`` are the API servers of the other releases alone.
"""

from __future__ import annotations

import os
import sys

from scripts.kubernetes import binaries, cache, images, packages


def main(arguments: list[str]) -> int:
    """Prepare one level; 0 when it is ready, 2 for a wrong call, 1 with a message when something is missing."""
    try:
        match arguments:
            case ["api"]:
                prepare_api()
            case ["releases"]:
                binaries.build(tuple(binaries.OTHERS.values()))
            case ["node"]:
                prepare_node()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except cache.SetupError as error:
        cache.say(f"✗ {error}")
        return 1
    return 0


def prepare_api() -> None:
    """Etcd, kube-apiserver, kubectl and Helm; where ``KUBEBUILDER_ASSETS`` names a directory, its first three alone."""
    if os.environ.get("KUBEBUILDER_ASSETS"):
        for program in ("etcd", *binaries.API):
            binaries.locate(program)
        return
    packages.ensure(packages.API)
    binaries.build((*binaries.list_api(), binaries.HELM))


def prepare_node() -> None:
    """Every component and image, unless ``KUBECONFIG`` names an existing cluster."""
    if os.environ.get("KUBECONFIG"):
        return
    if os.geteuid() != 0:
        raise cache.SetupError("the node level needs root (or KUBECONFIG of a cluster to test against, such as kind's)")
    packages.ensure(packages.NODE)
    binaries.build(binaries.NODE)
    images.build()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
