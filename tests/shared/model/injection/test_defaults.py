"""A namespace's annotations are its pods' defaults: the pod's own word wins, and what can't be used is named."""

from __future__ import annotations

import difflib

import pytest

from shared.model.injection.defaults import MAX_FAULTS, SIDECARS_OWN, TAKES, explain_settings, read_defaults
from shared.model.injection.refusals import InjectionRefusedError
from shared.model.injection.settings import BUILT_IN, KNOWN, Settings, read_settings
from sidecar.settings.configuration import Configuration

P = "touchmark.dev/"


def merge(pod: dict[str, str], namespace: dict[str, str]) -> Settings:
    defaults = read_defaults({P + name: text for name, text in namespace.items()})
    assert not defaults.faults
    return read_settings({P + name: text for name, text in pod.items()}, defaults.settings)


def test_a_pod_that_says_nothing_has_its_namespaces_settings() -> None:
    everything = {
        "exclude-inbound-ports": "9090",
        "exclude-outbound-ports": "53",
        "exclude-outbound-cidrs": "10.0.0.0/8",
        "mtls-ports": "8443",
        "mtls-destination-ports": "9443",
        "hold-connects": "514",
        "drain-seconds": "5",
        "workers": "2",
        "log-level": "debug",
        "log-format": "cef",
        "sidecar-cpu": "20m",
        "sidecar-cpu-limit": "1",
        "sidecar-memory": "70Mi",
        "sidecar-memory-limit": "128Mi",
    }
    assert {P + name for name in everything} == set(KNOWN) - {P + "inject", P + "injected"}, "each one is tried"
    assert merge({"inject": "true"}, everything) == merge(everything, {})
    assert merge(everything, {}) != BUILT_IN


@pytest.mark.parametrize(
    ("pod", "namespace", "field", "value"),
    [
        ({"exclude-inbound-ports": ""}, {"exclude-inbound-ports": "80"}, "exclude_inbound_ports", ()),
        ({"exclude-outbound-cidrs": ""}, {"exclude-outbound-cidrs": "10.0.0.0/8"}, "exclude_outbound_cidrs", ()),
        ({"log-level": ""}, {"log-level": "debug"}, "log_level", ""),
        ({"log-format": "json"}, {"log-format": "cef"}, "log_format", "json"),
        ({"drain-seconds": "0"}, {"drain-seconds": "9"}, "drain_s", 0),
        ({"workers": "1"}, {"workers": "4"}, "workers", 1),
        ({"hold-connects": "false"}, {"hold-connects": "true"}, "holds_connects", "never"),
        ({"sidecar-cpu-limit": "none"}, {"sidecar-cpu-limit": "1"}, "cpu_limit", ""),
        ({"sidecar-memory": "256Mi"}, {"sidecar-memory-limit": "128Mi"}, "memory_limit", "256Mi"),
        ({"sidecar-memory-limit": "100Mi"}, {"sidecar-memory": "200Mi"}, "memory_request", "100Mi"),
        ({"mtls-ports": "80"}, {"exclude-inbound-ports": "80,81"}, "exclude_inbound_ports", (81,)),
        ({"exclude-inbound-ports": "80"}, {"mtls-ports": "80,81"}, "mtls_ports", (81,)),
        ({"mtls-destination-ports": "80"}, {"exclude-outbound-ports": "80"}, "exclude_outbound_ports", ()),
        ({"hold-connects": "514"}, {"exclude-outbound-ports": "514,53"}, "exclude_outbound_ports", (53,)),
        ({"exclude-outbound-ports": "514"}, {"hold-connects": "514,601"}, "hold_ports", (601,)),
        ({"exclude-outbound-ports": "514"}, {"hold-connects": "514"}, "holds_connects", "never"),
    ],
    ids=repr,
)
def test_the_pods_own_word_wins_and_what_contradicts_it_gives_way(
    pod: dict[str, str], namespace: dict[str, str], field: str, value: object
) -> None:
    assert getattr(merge(pod, namespace), field) == value


def test_what_cannot_be_used_is_named_and_the_rest_counts() -> None:
    defaults = read_defaults(
        {
            P + "log-level": "loud",
            P + "exclude-inbound-port": "80",
            P + "drain-seconds": "5",
            P + "inject": "true",
            "example.com/x": "y",
        }
    )
    assert defaults.settings == Settings(drain_s=5)
    assert dict(defaults.applied) == {P + "drain-seconds": "5"}
    level, name = sorted(defaults.faults)
    assert level.startswith('bad_annotation: metadata.annotations["touchmark.dev/log-level"]: not a level')
    assert "did you mean touchmark.dev/exclude-inbound-ports?" in name


def test_many_faults_are_bounded() -> None:
    assert len(read_defaults({f"{P}unknown-{number}": "" for number in range(99)}).faults) == MAX_FAULTS


def test_of_thousands_of_unknown_names_only_those_that_are_named_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may annotate a namespace mustn't keep the CA busy for seconds with each pod."""
    looked_at: list[str] = []

    def look(word: str, *_: object, **__: object) -> list[str]:
        looked_at.append(word)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", look)
    names = {f"{P}unknown-{number}": "" for number in range(5_000)}
    defaults = read_defaults({**names, P + "drain-seconds": "5", P + "log-level": "loud"})
    assert (dict(defaults.applied), len(defaults.faults)) == ({P + "drain-seconds": "5"}, MAX_FAULTS)
    assert "log-level" in defaults.faults[0]
    assert len(looked_at) <= MAX_FAULTS


def test_an_explanation_says_whose_word_each_setting_is() -> None:
    defaults = read_defaults({P + "log-level": "debug", P + "sidecar-memory-limit": "128Mi"})
    explained = {
        each.annotation: (each.value, each.source)
        for each in explain_settings({P + "sidecar-memory": "256Mi", P + "inject": "true"}, defaults)
    }
    assert explained["sidecar-memory"] == ("256Mi", "pod")
    assert explained["sidecar-memory-limit"] == ("256Mi", "adapted")
    assert explained["log-level"] == ("debug", "namespace")
    assert explained["sidecar-cpu"] == ("50m", "built-in")
    assert explained["sidecar-cpu-limit"] == ("none", "built-in")
    assert len(explained) == len(KNOWN) - 2


def test_an_explanation_says_what_the_sidecar_does_that_is_told_nothing() -> None:
    own = Configuration()
    values = {
        "drain-seconds": f"{own.drain_s:g}",
        "workers": str(own.workers),
        "log-level": own.log_level,
        "log-format": own.log_format.value,
    }
    assert values == {name.removeprefix(P): text for name, text in SIDECARS_OWN.items()}
    explained = {each.annotation: each for each in explain_settings({}, read_defaults({}))}
    assert {name: explained[name].value for name in values} == values
    assert not explained["mtls-ports"].value


@pytest.mark.parametrize("name", sorted(TAKES))
def test_what_an_explanation_says_a_setting_takes_is_taken(name: str) -> None:
    """Of a text with an example (``as in``) the example is tried, of another one each word, and both bounds."""
    text = TAKES[name].removeprefix("a quantity ")
    words = text.rpartition(" as in ")[2:] if " as in " in text else text.replace(", or ", ", ").split(", ")
    for word in words:
        for value in word.removeprefix("up to ").removeprefix("from ").split(" to "):
            read_settings({name: value})


def test_a_pods_own_fault_still_refuses_it() -> None:
    with pytest.raises(InjectionRefusedError):
        explain_settings({P + "log-level": "loud"}, read_defaults({}))
