"""A mesh in which everything is well, for tests that change one thing of it; and a refused connection."""

from __future__ import annotations

import msgspec

from cli.admin.observation import Observation
from shared.model.policy.decision import PartyRecord, ProcessRecord
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.trust.bundle import AuthorityPhase
from shared.model.version import VERSION
from shared.model.wire.admin import (
    AuthorityView,
    CAStatus,
    ClusterNamespace,
    ClusterStatus,
    DecisionView,
    Health,
    IdentityView,
    RotationStatus,
    SidecarView,
    WatchView,
)
from tests.shared.model.policy.records import make_record

NOW = 1_000_000_000.0
DAY = 86_400.0


def make_authority(kind: str = "issuing", *, ends_in: float = 80 * DAY) -> AuthorityView:
    return AuthorityView(
        authority_id=kind,
        kind=kind,
        phase=AuthorityPhase.ACTIVE,
        subject=f"CN={kind} 1,O=touchmark",
        public_key_digest="00",
        not_before=NOW - 10 * DAY,
        not_after=NOW + ends_in,
    )


CA = CAStatus(
    version=VERSION,
    trust_domain="touchmark.local",
    started=NOW - 7200,
    now=NOW,
    listen="0.0.0.0:15443",
    data_dir="/var/lib/touchmark",
    kek_file="/etc/touchmark/kek",
    kek_generated=False,
    root_pin="00" * 32,
    server_not_after=NOW + 3000,
    bundle_sequence=4,
    authorities=(make_authority("root", ends_in=3000 * DAY), make_authority()),
    rotation=RotationStatus(step="none", issuer="CN=issuing 1"),
    sidecars_total=1,
    sidecars_live=1,
    sidecars_connected=1,
    certificates_alive=2,
    leaf_lifetime_s=3600.0,
)
SIDECAR = SidecarView(
    instance="web-1.abcdef01",
    workload="shop/web",
    addresses=("198.18.0.7",),
    allowed_addresses=(),
    labels={},
    tunnel_port=15008,
    version=VERSION,
    capture="redirect",
    joined=NOW - 3600,
    last_seen=NOW - 5,
    connected=True,
    live=True,
    installed_sequence=4,
    namespace_versions={"shop": 7},
)
CERTIFICATE = IdentityView(
    serial="1",
    identity="spiffe://touchmark.local/ns/shop/sa/web/sidecar",
    workload="shop/web",
    program="",
    kind="sidecar",
    issuer="CN=issuing 1",
    instance="web-1.abcdef01",
    issued=NOW - 600,
    not_after=NOW + 3000,
    alive=True,
)
CLUSTER = ClusterStatus(
    server_version="v1.34.4",
    clock_skew_s=0.4,
    sidecar_images=("touchmark/sidecar:0.1.0",),
    watches=(WatchView(name="pods", is_synced=True, age_s=3.0, objects=9, restarts=0, lists=1),),
    namespaces=(
        ClusterNamespace(namespace="shop", is_labelled=True, pods=1, wanted=1, injected=1, connected=1),
        ClusterNamespace(namespace="kube-system", is_labelled=False, pods=5, wanted=0, injected=0, connected=0),
    ),
    services=3,
    not_injected=(),
    unfit=(),
    refused=(),
    refused_total=0,
)
OBSERVATION = Observation(
    ca=CA,
    health=Health(status="ok", checks={"store": "ok"}),
    sidecars=(SIDECAR,),
    namespaces=(NamespaceState(namespace="shop", version=7, mode=Mode.EXPLICIT),),
    identities=(CERTIFICATE,),
    cluster=CLUSTER,
)


DENIAL = DecisionView(
    id=1,
    record=make_record(
        sidecar="client",
        policy_version=4,
        source=PartyRecord(workload="shop/client", program=f"sha256:{'ab' * 32}"),
        destination=PartyRecord(address="198.18.0.2:8080", listed="shop/web"),
        process=ProcessRecord(pid=7, uid=0, path="/tmp/intruder", digest="ab" * 32),
        port=8080,
        duration_s=0.1,
    ),
)


def change_sidecar(**changes: object) -> SidecarView:
    return msgspec.structs.replace(SIDECAR, **changes)


def change_ca(**changes: object) -> CAStatus:
    return msgspec.structs.replace(CA, **changes)


def change_cluster(**changes: object) -> ClusterStatus:
    return msgspec.structs.replace(CLUSTER, **changes)
