"""Objects that the YAML reader and the API server's schemas (manifests/crds) must judge alike: one table for both.

`test_documents.py` holds the reader against it, `tests/kubernetes/test_crds.py` a real API server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

A, B = "a" * 64, "B" * 64
EVERYWHERE: dict[str, Any] = {"unidentified": True, "cidrs": ["0.0.0.0/0", "::/0"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One object.

    Attributes:
        path: where the reader finds the fault; None: it accepts the object.
        server: what the API server does, where it isn't the same: ``accepts`` (the CA refuses then, in the object's
            status) or ``refuses``; ``drops`` says that it accepts after dropping what the reader refuses (a null).
    """

    name: str
    document: dict[str, Any]
    path: str | None = None
    server: str = ""

    @property
    def is_accepted_by_server(self) -> bool:
        return self.server != "refuses" if self.server else self.path is None


def policy(spec: Any, *, name: str = "default") -> dict[str, Any]:
    """A MeshPolicy."""
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "touchmark.dev/v1alpha1", "kind": "MeshPolicy", "metadata": metadata, "spec": spec}


def ruled(**rule: Any) -> dict[str, Any]:
    """A MeshPolicy with one rule."""
    return policy({"rules": [{"name": "r", "action": "allow", **rule}]})


def program(name: str = "postgres", **spec: Any) -> dict[str, Any]:
    """A Program; a field that is None is left out."""
    fields = {"serviceAccount": "db", "digests": [f"sha256:{A}"], **spec}
    return {
        "apiVersion": "touchmark.dev/v1alpha1",
        "kind": "Program",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {key: value for key, value in fields.items() if value is not None},
    }


def _cases() -> Iterator[Case]:
    rule = "spec.rules[0]"

    def good(name: str, document: dict[str, Any]) -> Case:
        return Case(name=name, document=document)

    def bad(name: str, path: str, document: dict[str, Any], server: str = "") -> Case:
        return Case(name=name, document=document, path=path, server=server)

    # ---- MeshPolicy
    yield good("empty", policy({}))
    yield good("null spec", policy(None))
    yield good("modes", policy({"mode": "permissive"}))
    yield good("no rules", policy({"mode": "explicit", "rules": []}))
    yield good("group", policy({"group": {"label": "example.com/team"}}))
    yield good("group without a prefix", policy({"group": {"label": "Team_1"}}))
    yield good("requirement", policy({"requires": ["matchingAddress"]}))
    yield good("requirements", policy({"requires": ["containerOrigin", "matchingAddress", "ownSockets"]}))
    yield good("no requirement", policy({"requires": []}))
    yield bad("unknown requirement", "spec.requires[0]", policy({"requires": ["listed"]}))
    yield bad("a requirement twice", "spec.requires", policy({"requires": ["matchingAddress"] * 2}))
    yield good("no draft", policy({"draft": False}))
    yield bad("a draft in the place of the policy", "spec.draft", policy({"draft": True, "mode": "explicit"}))
    yield good(
        "a draft", policy({"draft": True, "mode": "explicit", "workloadModes": {"db": "permissive"}}, name="draft")
    )
    yield good("an empty draft", policy({"draft": True}, name="draft"))
    yield bad("a draft that is none", "metadata.name", policy({"draft": False}, name="draft"))
    yield bad("a draft that doesn't say so", "metadata.name", policy({"mode": "explicit"}, name="draft"))
    yield bad("a draft without a spec", "spec", policy(None, name="draft"))
    yield bad("a draft of another name", "metadata.name", policy({"draft": True}, name="other"))
    tried = {"mode": "explicit", "trial": {"backTo": "permissive", "until": "2026-01-31T12:00:00Z"}}
    yield bad("a draft on trial", "spec.trial", policy({"draft": True, **tried}, name="draft"))
    yield bad("draft of another type", "spec.draft", policy({"draft": "true"}))
    yield good("status", {**policy({}), "status": {"installed": 3}})
    yield bad("no spec", "", {key: value for key, value in policy({}).items() if key != "spec"})
    yield bad("another name", "metadata.name", policy({}, name="other"))
    yield bad("unknown field", "spec.mod", policy({"mod": "explicit"}))
    yield bad("unknown field of a rule", f"{rule}.port", ruled(port=[1]))
    yield bad("a Service", f"{rule}.peers[0].service", ruled(direction="egress", peers=[{"service": "bank/db"}]))
    yield bad("unknown field of a peer", f"{rule}.peers[0].ns", ruled(peers=[{"ns": "bank"}]))
    yield bad("unknown mode", "spec.mode", policy({"mode": "strict"}))
    yield bad("mode of another type", "spec.mode", policy({"mode": True}))
    yield bad("null mode", "spec.mode", policy({"mode": None}), "drops")
    trial = {"backTo": "permissive", "until": "2026-01-31T12:00:00Z"}
    yield good("trial", policy({"mode": "explicit", "trial": trial}))
    yield bad("trial without a mode", "spec.trial", policy({"trial": trial}), "accepts")
    yield bad("trial without an end", "spec.trial", policy({"mode": "explicit", "trial": {"backTo": "permissive"}}))
    for until in ("2026-02-31T12:00:00Z", "2026-01-31T12:00:00", "tomorrow"):
        wrong = {**trial, "until": until}
        yield bad(f"trial until {until}", "spec.trial.until", policy({"mode": "explicit", "trial": wrong}))
    yield good("workloads' modes", policy({"workloadModes": {"db": "explicit", "a.b-1": "permissive"}}))
    yield good("no workload's mode", policy({"mode": "explicit", "workloadModes": {}}))
    yield bad("unknown mode of a workload", "spec.workloadModes.db", policy({"workloadModes": {"db": "inherit"}}))
    yield bad(
        "a mode of no workload", 'spec.workloadModes."D B"', policy({"workloadModes": {"D B": "explicit"}}), "accepts"
    )
    crowd = {f"w{number}": "explicit" for number in range(251)}
    yield bad("too many workloads' modes", "spec.workloadModes", policy({"workloadModes": crowd}))
    yield bad("null group", "spec.group", policy({"group": None}), "drops")
    yield bad("group without a label", "spec.group", policy({"group": {}}))
    yield bad("label with a space", "spec.group.label", policy({"group": {"label": "no label"}}))
    yield bad("label that ends with a dash", "spec.group.label", policy({"group": {"label": "team-"}}))
    yield bad("rules that are none", "spec.rules", policy({"rules": {"name": "r"}}))
    yield bad("null rule", f"{rule}", policy({"rules": [None]}))
    # ---- rules
    yield good("rule", ruled())
    yield good("name of 128 characters", ruled(name="ü" * 128))
    yield bad("name of 129 characters", rule, ruled(name="x" * 129))
    yield bad("empty name", rule, ruled(name=""))
    yield bad("no name", rule, policy({"rules": [{"action": "allow"}]}))
    yield bad("no action", rule, policy({"rules": [{"name": "r"}]}))
    yield bad("unknown action", f"{rule}.action", ruled(action="Allow"))
    yield bad("unknown direction", f"{rule}.direction", ruled(direction="both"))
    yield bad("two of one name", "spec.rules[1].name", policy({"rules": [{"name": "r", "action": "deny"}] * 2}))
    many = [{"name": f"r{number}", "action": "deny"} for number in range(1001)]
    yield good("1000 rules", policy({"rules": many[:1000]}))
    yield bad("1001 rules", "spec.rules", policy({"rules": many}))
    # ---- workloads and programs
    yield good("workloads", ruled(workloads=["db", "a.b-c", "x" * 63 + "." + "y" * 63]))
    yield bad("no workloads", f"{rule}.workloads", ruled(workloads=[]))
    yield bad("a workload", f"{rule}.workloads", ruled(workloads="db"))
    yield bad("workload in capitals", f"{rule}.workloads[0]", ruled(workloads=["DB"]))
    yield bad("workload with an empty label", f"{rule}.workloads[0]", ruled(workloads=["a..b"]))
    yield bad("workload with a long label", f"{rule}.workloads[0]", ruled(workloads=["x" * 64]))
    yield bad("workload of 255 characters", f"{rule}.workloads[0]", ruled(workloads=[".".join(["x" * 63] * 4)]))
    yield bad("empty workload", f"{rule}.workloads[0]", ruled(workloads=[""]))
    digests = [A, f"sha256:{B}", f"{A}/main:none", f"sha256:{A}/main:{B}", f"sha256:{A}/main:sha256:{A}"]
    yield good("programs", ruled(workloads=["db"], programs=digests))
    yield bad("programs of nobody", rule, ruled(programs=[A]))
    for number, text in enumerate(
        (
            A[:-1],
            A + "a",
            f"sha512:{A}",
            f"sha256:sha256:{A}",
            f"{A}/",
            f"{A}/main:",
            f"{A}/main:x",
            f" {A}",
            f"{A}\n",
            "",
        )
    ):
        yield bad(f"not a digest {number}", f"{rule}.programs[0]", ruled(workloads=["db"], programs=[text]))
    yield bad("program that is a number", f"{rule}.programs[0]", ruled(workloads=["db"], programs=[7]))
    # ---- peers
    yield good("anybody identified", ruled(peers=[{}]))
    yield good("a namespace", ruled(peers=[{"namespace": "bank"}]))
    yield good("a program", ruled(peers=[{"namespace": "bank", "serviceAccount": "teller", "program": A}]))
    yield good("addresses", ruled(peers=[EVERYWHERE, {"unidentified": True, "cidrs": ["198.18.0.0/15"]}]))
    yield good("identified, said so", ruled(peers=[{"namespace": "bank", "unidentified": False}]))
    yield bad("no peers", f"{rule}.peers", ruled(peers=[]))
    yield bad("null peer", f"{rule}.peers[0]", ruled(peers=[None]))
    yield good("250 peers", ruled(peers=[{"namespace": "bank"}] * 250))
    yield bad("251 peers", f"{rule}.peers", ruled(peers=[{"namespace": "bank"}] * 251))
    yield bad("namespace in capitals", f"{rule}.peers[0].namespace", ruled(peers=[{"namespace": "B_"}]))
    yield bad("empty namespace", f"{rule}.peers[0].namespace", ruled(peers=[{"namespace": ""}]))
    yield bad("an account of nowhere", f"{rule}.peers[0]", ruled(peers=[{"serviceAccount": "teller"}]))
    yield bad("a program of nobody", f"{rule}.peers[0]", ruled(peers=[{"namespace": "bank", "program": A}]))
    yield bad("addresses of a namespace", f"{rule}.peers[0]", ruled(peers=[{"namespace": "bank", **EVERYWHERE}]))
    yield bad("unidentified anywhere", f"{rule}.peers[0]", ruled(peers=[{"unidentified": True}]))
    yield bad("addresses of the identified", f"{rule}.peers[0]", ruled(peers=[{"cidrs": ["10.0.0.0/8"]}]))
    yield bad(
        "addresses that are not unidentified",
        f"{rule}.peers[0]",
        ruled(peers=[{"unidentified": False, "cidrs": ["10.0.0.0/8"]}]),
    )
    # ---- foreign peers
    domain = "d" * 255
    for text in (
        "spiffe://partner.example/billing",
        "spiffe://partner.example/ns/pay/sa/card-reader",
        "spiffe://partner.example/*",
        "spiffe://partner.example/ns/pay/*",
        "spiffe://a/b",
        "spiffe://a_b.c-d/.hidden/..x/.../A_b.C-9",
        f"spiffe://{domain}/x",
        "spiffe://a/" + "x" * 501,
    ):
        yield good(f"foreign {text[:40]}", ruled(peers=[{"spiffeID": text}]))
    foreign = f"{rule}.peers[0].spiffeID"
    for text in (
        "",
        "spiffe://partner.example",
        "spiffe://partner.example/",
        "spiffe://partner.example/a/",
        "spiffe://partner.example/a//b",
        "spiffe://partner.example/./a",
        "spiffe://partner.example/a/..",
        "spiffe://partner.example/a*",
        "spiffe://partner.example/*/a",
        "spiffe://partner.example/a%20b",
        "spiffe://partner.example/a?b",
        "spiffe://*/a",
        "spiffe://Partner.example/a",
        "spiffe://partner.example:443/a",
        "spiffe://-a/b",
        "SPIFFE://partner.example/a",
        "https://partner.example/a",
        "spiffe://partner.example/a\n",
        " spiffe://partner.example/a",
        f"spiffe://{domain}d/x",
        "spiffe://a/" + "x" * 502,
    ):
        yield bad(f"not a foreign peer {text[:40]!r}", foreign, ruled(peers=[{"spiffeID": text}]))
    partner = {"spiffeID": "spiffe://partner.example/billing"}
    yield bad("foreign and of a namespace", f"{rule}.peers[0]", ruled(peers=[{"namespace": "bank", **partner}]))
    yield bad("foreign and unidentified", f"{rule}.peers[0]", ruled(peers=[{**EVERYWHERE, **partner}]))
    yield good("foreign, said so", ruled(peers=[{"unidentified": False, **partner}]))
    yield good("deny foreign", ruled(action="deny", peers=[partner]))
    yield good("allow egress to foreign", ruled(direction="egress", peers=[partner, EVERYWHERE]))
    yield bad("allow egress half foreign", f"{rule}.direction", ruled(direction="egress", peers=[partner, {}]))
    cidrs = f"{rule}.peers[0].cidrs"
    yield bad("no cidrs", cidrs, ruled(peers=[{"unidentified": True, "cidrs": []}]))
    for text in (
        "10.0.0.1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/33",
        "10.0.0/8",
        "010.0.0.0/8",
        "::/129",
        "x/8",
        "fe80::%e/64",
    ):
        yield bad(f"not a cidr {text}", f"{cidrs}[0]", ruled(peers=[{"unidentified": True, "cidrs": [text]}]))
    # Neither a format nor an expression that a thousand rules could afford tells these apart: the CA does.
    for text in ("10.0.0.1/8", "::ffff:10.0.0.0/104"):
        document = ruled(peers=[{"unidentified": True, "cidrs": [text]}])
        yield bad(f"not a network {text}", f"{cidrs}[0]", document, "accepts")
    # ---- egress
    yield good("deny egress", ruled(action="deny", direction="egress"))
    yield good("allow egress", ruled(direction="egress", peers=[EVERYWHERE]))
    yield bad("allow egress anywhere", f"{rule}.direction", ruled(direction="egress"))
    yield bad("allow egress inside", f"{rule}.direction", ruled(direction="egress", peers=[{"namespace": "bank"}]))
    yield bad("allow egress half inside", f"{rule}.direction", ruled(direction="egress", peers=[EVERYWHERE, {}]))
    # ---- hosts
    names = ["api.example.com", "a", "_x.b-1.example", "xn--bcher-kva.example", ".".join(["y" * 63] * 3 + ["z" * 61])]

    def named(*hosts: str, **rule: Any) -> dict[str, Any]:
        return ruled(**{"direction": "egress", "peers": [{"unidentified": True, "hosts": list(hosts)}], **rule})

    hosts = f"{rule}.peers[0].hosts"
    yield good("hosts", named(*names))
    yield good("256 hosts", named(*(f"h{number}.example.com" for number in range(256))))
    yield bad("257 hosts", hosts, named(*(f"h{number}.example.com" for number in range(257))))
    yield good("hosts beside addresses", named(peers=[EVERYWHERE, {"unidentified": True, "hosts": names}]))
    yield bad("no hosts", hosts, named())
    for text in (
        "*.example.com", "api.example.com.", "Api.example.com", "192.0.2.7", "api..example", "-a.example", "a-.example",
        "a.example/x", "https://a.example", "a.example:443", "bücher.example", " a.example", "a.example\n", "", "1",
        "x" * 64 + ".example", ".".join(["y" * 63] * 3 + ["z" * 62]), "2001:db8::7",
    ):  # fmt: skip
        yield bad(f"not a host {text[:40]!r}", f"{hosts}[0]", named(text))
    yield bad("hosts and addresses", f"{rule}.peers[0]", named(peers=[{**EVERYWHERE, "hosts": names}]))
    yield bad("hosts of the identified", f"{rule}.peers[0]", named(peers=[{"unidentified": False, "hosts": names}]))
    yield bad("hosts of a foreign peer", f"{rule}.peers[0]", named(peers=[{"hosts": names, **partner}]))
    yield bad("hosts that are refused", hosts, named(*names, action="deny"))
    yield bad("hosts that come in", hosts, named(*names, direction="ingress"))
    # ---- ports
    yield good("ports", ruled(ports=[1, 65535, "443", "9000-9100", "7-7", "1-65535", "999-1000"]))
    yield bad("no ports", f"{rule}.ports", ruled(ports=[]))
    yield bad("101 ports", f"{rule}.ports", ruled(ports=[80] * 101))
    for number, port in enumerate(
        (
            0,
            65536,
            -1,
            1.5,
            True,
            "http",
            "0",
            "65536",
            "010",
            "-1",
            "1-",
            "1-65536",
            " 80",
            "",
        )
    ):
        yield bad(f"not a port {number} {port}", f"{rule}.ports[0]", ruled(ports=[port]))
    # With touchmark-port-ranges the server refuses them, too.
    yield bad("a range from the higher port", f"{rule}.ports[0]", ruled(ports=["9100-9000"]), "accepts")
    yield bad("a range from the longer port", f"{rule}.ports[0]", ruled(ports=["1000-999"]), "accepts")
    # ---- Program
    yield good("program", program())
    yield good("program's digests", program(digests=digests))
    yield good("weak program", program(weak=True))
    yield good("program with dots", program(name="web.v1-2"))
    yield bad("program in capitals", "metadata.name", program(name="Post_gres"))
    yield bad("program without an account", "spec", program(serviceAccount=None))
    yield bad("program without digests", "spec", program(digests=None))
    yield bad("program of no digest", "spec.digests", program(digests=[]))
    yield bad("program's account in capitals", "spec.serviceAccount", program(serviceAccount="DB"))
    yield bad("program of no such digest", "spec.digests[1]", program(digests=[A, "abc"]))
    yield bad("weak by a string", "spec.weak", program(weak="true"))
    yield bad("program's unknown field", "spec.week", program(week=True))
    libc = {"path": "/lib/a b.so", "digest": f"sha256:{A}"}
    yield good("program's code", program(code={"objects": [libc], "check": "report", "jit": True}))
    yield good("program's code by default", program(code={}))
    yield good("loaded object by bare digest", program(code={"objects": [{**libc, "digest": A}]}))
    yield bad("other check", "spec.code.check", program(code={"check": "ignore"}))
    yield bad("jit by a string", "spec.code.jit", program(code={"jit": "true"}))
    yield bad("code's unknown field", "spec.code.jits", program(code={"jits": True}))
    yield bad("object without a digest", "spec.code.objects[0]", program(code={"objects": [{"path": "/a"}]}))
    yield bad("object without a path", "spec.code.objects[0]", program(code={"objects": [{"digest": A}]}))
    yield bad("object's empty path", "spec.code.objects[0].path", program(code={"objects": [{**libc, "path": ""}]}))
    yield bad(
        "object's long path", "spec.code.objects[0].path", program(code={"objects": [{**libc, "path": "/" * 257}]})
    )
    yield bad(
        "object's unprintable path",
        "spec.code.objects[0].path",
        program(code={"objects": [{**libc, "path": "/\x1b[31m"}]}),
    )
    yield bad(
        "object's digest of a script",
        "spec.code.objects[0].digest",
        program(code={"objects": [{**libc, "digest": f"{A}/main:none"}]}),
    )
    yield bad("too many objects", "spec.code.objects", program(code={"objects": [libc] * 513}))


CASES = tuple(_cases())
