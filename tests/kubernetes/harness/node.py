"""One whole node: control plane, containerd, kubelet and kube-proxy with nftables. Root; does I/O.

It runs inside `scripts.kubernetes.isolation`, whose end (also a kill) ends all of it: here nothing is cleaned up that
the kernel takes away by itself. All addresses are from 198.18.0.0/15 and 2001:db8::/32, for the cluster is dual-stack,
IPv4 first. The node's own address is the bridge's; the tests run in the node's network namespace, so that they reach
the API server, pods and services as a process on a node would. Pods have no way out. The container network is a plain
bridge: NetworkPolicies aren't enforced.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.kubernetes import binaries, images, isolation, packages
from scripts.kubernetes.cache import SetupError
from tests.kubernetes.harness.api_server import SERVICES, ApiServer
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.containerd import Containerd
from tests.kubernetes.harness.processes import Program, wait_until

NAME = "node1"
ADDRESS = "198.18.0.1"
PODS = "198.18.0.0/16"
_NODE_PODS = "198.18.0.0/24"
# The second family: Services that ask for it get it, pods have both.
ADDRESS_V6 = "2001:db8:18::1"
PODS_V6 = "2001:db8:18::/56"
_NODE_PODS_V6 = "2001:db8:18::/64"
SERVICES_V6 = "2001:db8:19::/112"
_BRIDGE = "cni0"
_DNS = "198.19.0.10"
_CGROUPS = Path("/sys/fs/cgroup")
# How often the kubelet looks at each pod again; and so the longest that a changed ConfigMap takes to reach all pods.
SYNC_S = 5
CONFIG_MAP_S = 20


class Node(Cluster):
    """Up from `start` on; `images` is what pods can name."""

    def __init__(self, *, arguments: Sequence[str] = ()) -> None:
        """``arguments`` are kube-apiserver's further ones."""
        run = isolation.run_directory()
        if run is None:
            raise SetupError("a node runs isolated: use `make test-node`, or python -m scripts.kubernetes.isolation")
        self.directory = directory = run / "node"
        directory.mkdir()
        self.images: Mapping[str, images.Image] = images.current()
        self._cgroup = isolation.cgroup(run)
        pki = directory / "control-plane" / "pki"
        self._pki = pki
        self.api_server = ApiServer(
            directory / "control-plane",
            address=ADDRESS,
            port=6443,
            arguments=[
                f"--kubelet-certificate-authority={pki / 'ca.crt'}",
                f"--service-cluster-ip-range={SERVICES},{SERVICES_V6}",
                *arguments,
            ],
        )
        super().__init__(self.api_server.admin)
        self.containerd = Containerd(
            directory / "containerd", bridge=_BRIDGE, subnets={_NODE_PODS: ADDRESS, _NODE_PODS_V6: ADDRESS_V6}
        )
        self.programs: dict[str, Program] = {}

    # ---- Life --------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start everything; on return pods run and names resolve. Call it on the main thread."""
        self._make_network()
        self._make_cgroup()
        self.containerd.start(self.images)
        self.api_server.start()
        self.start_controller_manager()
        self.start_scheduler()
        self.start_kubelet()
        self.start_proxy()
        wait_until(self._is_ready, timeout_s=120)
        self.kubectl("apply", "-f", str(Path(__file__).with_name("dns.yaml")))
        self.wait_for_rollout("deployment/coredns", namespace="kube-system", timeout_s=120)

    def save_logs(self, target: Path) -> None:
        """Keep the components' and the pods' logs, which go with the run's directory otherwise."""
        # Not the containers' own files, which come and go, and may be anything.
        others = {self.containerd.directory / "root", self.containerd.directory / "state"}
        for place, directories, names in os.walk(self.directory):
            directories[:] = [name for name in directories if Path(place, name) not in others]
            for log in (Path(place, name) for name in names if name.endswith(".log")):
                kept = target / log.relative_to(self.directory)
                kept.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # The kubelet has just deleted a pod's.
                    shutil.copy(log, kept)

    def stop(self) -> None:
        """Stop the components; pods end with the isolated run."""
        for name in reversed(self.programs):
            self.programs[name].stop(timeout_s=0)
        self.containerd.stop()
        self.api_server.stop(kill=True)

    # ---- What only a node's owner can do -----------------------------------------------------------------------------
    def kill_container(self, namespace: str, pod: str, container: str) -> None:
        """Kill a container's first process, as a crash or the kernel's lack of memory would."""
        status = self.kubectl.get("pod", "-n", namespace, pod)["status"]
        states = [*status.get("initContainerStatuses", ()), *status["containerStatuses"]]
        [name] = [state["containerID"] for state in states if state["name"] == container]
        self.containerd.ctr("tasks", "kill", "--signal", "SIGKILL", name.rpartition("/")[2])

    def hand_out_next(self, address: str) -> None:
        """Have the next pod get this address, which must be free."""
        self.containerd.hand_out_next(address)

    def start_controller_manager(self) -> None:
        """Controllers: deployments, jobs, service accounts, endpoint slices, garbage."""
        self._start(
            "kube-controller-manager",
            "system:kube-controller-manager",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--allocate-node-cidrs",
            f"--cluster-cidr={PODS},{PODS_V6}",
            "--node-cidr-mask-size-ipv4=24",
            "--node-cidr-mask-size-ipv6=64",
            f"--service-cluster-ip-range={SERVICES},{SERVICES_V6}",
            f"--service-account-private-key-file={self._pki / 'sa.key'}",
            f"--root-ca-file={self._pki / 'ca.crt'}",
            "--use-service-account-credentials",
            f"--cluster-signing-cert-file={self._pki / 'ca.crt'}",
            f"--cluster-signing-key-file={self._pki / 'ca.key'}",
        )

    def start_scheduler(self) -> None:
        """Puts pods on the only node."""
        self._start("kube-scheduler", "system:kube-scheduler", "--leader-elect=false", "--bind-address=127.0.0.1")

    def start_kubelet(self) -> None:
        """Runs the pods."""
        user, groups = f"system:node:{NAME}", ["system:nodes"]
        serving = self.api_server.ca.issue(user, groups=groups, names=[ADDRESS, NAME])
        directory = self.directory / "kubelet"
        directory.mkdir(exist_ok=True)
        (directory / "serving.crt").write_bytes(serving.certificate)
        (directory / "serving.key").write_bytes(serving.key)
        configuration = directory / "config.json"
        configuration.write_text(json.dumps(self._kubelet_configuration(directory)), encoding="ascii")
        self._start(
            "kubelet",
            user,
            f"--config={configuration}",
            f"--root-dir={directory / 'root'}",
            f"--cert-dir={directory}",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS},{ADDRESS_V6}",
            groups=groups,
        )

    def start_proxy(self) -> None:
        """Services, by nftables in the node's network namespace."""
        self._start(
            "kube-proxy",
            "system:kube-proxy",
            "--proxy-mode=nftables",
            f"--cluster-cidr={PODS},{PODS_V6}",
            f"--hostname-override={NAME}",
            "--metrics-bind-address=127.0.0.1:10249",
            "--healthz-bind-address=127.0.0.1:10256",
            # 0: the machine's own connection tracking limits stay as they are.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            groups=["system:node-proxier"],
        )

    # ---- Parts -------------------------------------------------------------------------------------------------------
    def _start(self, program: str, user: str, *arguments: str, groups: Sequence[str] = ()) -> None:
        kubeconfig = self.api_server.kubeconfig(user, groups=groups)
        command: list[str | Path] = [binaries.locate(program), f"--kubeconfig={kubeconfig}", *arguments]
        log = self.directory / f"{program}.log"
        self.programs[program] = Program(command, log=log, directory=self.directory)

    def _is_ready(self) -> bool:
        for program in self.programs.values():
            program.check()
        ready = self.kubectl.run("wait", "--for=condition=Ready", f"node/{NAME}", "--timeout=2s").returncode == 0
        return ready and self.kubectl.run("-n", "default", "get", "serviceaccount", "default").returncode == 0

    def _make_network(self) -> None:
        for arguments in (
            f"link add {_BRIDGE} type bridge",
            f"addr add {ADDRESS}/24 dev {_BRIDGE}",
            f"addr add {ADDRESS_V6}/64 dev {_BRIDGE} nodad",
            f"link set {_BRIDGE} up",
            # A packet to a service's address is routed before the packet filter changes it.
            f"route add {SERVICES} dev {_BRIDGE}",
            f"-6 route add {SERVICES_V6} dev {_BRIDGE}",
        ):
            _call("ip", *arguments.split())
        # Bridged frames pass the packet filter, or a service's answer from a pod on the same bridge is lost.
        for name in (
            "net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables",
            "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables",
        ):  # fmt: skip
            Path("/proc/sys", name).write_text("1", encoding="ascii")

    def _make_cgroup(self) -> None:
        hierarchies = [_CGROUPS] if (_CGROUPS / "cgroup.controllers").exists() else _v1_hierarchies()
        for hierarchy in hierarchies:
            group = hierarchy / self._cgroup
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (hierarchy / name).exists() and (group / name).exists():  # Version 1 doesn't inherit them.
                    (group / name).write_text((hierarchy / name).read_text(encoding="ascii"), encoding="ascii")

    def _kubelet_configuration(self, directory: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "healthzBindAddress": "127.0.0.1",
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "podLogsDir": str(directory / "logs"),
            "staticPodPath": "",
            "resolvConf": "",
            "makeIPTablesUtilChains": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [_DNS],
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(directory / "serving.crt"),
            "tlsPrivateKeyFile": str(directory / "serving.key"),
            # The disk belongs to other work as well: nothing is evicted for its sake.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi"},
            "maxPods": 100,
            "serializeImagePulls": False,
            "runtimeRequestTimeout": "30s",
            # A changed ConfigMap reaches pods within one and a half of it; by default that is a minute.
            "syncFrequency": f"{SYNC_S}s",
            # What is killed more than once doesn't wait longer each time.
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        }


def _v1_hierarchies() -> list[Path]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [Path(fields[1]) for line in lines if (fields := line.split())[2] == "cgroup"]


def _call(program: str, *arguments: str) -> None:
    path = packages.which(program)
    if path is None:
        raise SetupError(f"{program} isn't there")
    subprocess.run([path, *arguments], check=True)


def main(command: Sequence[str]) -> int:
    """Bring a node up and run a command (default: a shell) with KUBECONFIG and PATH set for it."""
    node = Node()
    try:
        node.start()
        path = f"{binaries.locate('kubectl').parent}:{os.environ['PATH']}"
        env = {**os.environ, "KUBECONFIG": str(node.admin), "PATH": path}
        return subprocess.run(command or ["bash"], env=env, check=False).returncode
    finally:
        node.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
