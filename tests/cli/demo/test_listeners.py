"""The stage on loopback: nothing but 127/8, and configurations that fit together."""

from __future__ import annotations

from cli.demo.listeners import build_listeners
from cli.demo.stage import BESIDE, BETWEEN


def test_the_client_s_listener_leads_to_the_server_s_inbound_listener() -> None:
    stage = build_listeners()
    served = stage.outsider_url.removeprefix("http://").rstrip("/")
    assert f'destination: "{served}"' in stage.client.configuration
    assert f'listen: "{served}", application: "{stage.server_listen}"' in stage.web.configuration
    assert stage.client_url.startswith("http://127.0.0.1:")


def test_ports_tell_the_legs_apart() -> None:
    stage = build_listeners()
    tunnel = int(stage.web.configuration.split("port: ")[1].split("}")[0])
    application = int(stage.server_listen.rpartition(":")[2])
    classify = stage.taps[0].classify
    assert (classify(40000, tunnel), classify(application, 40000), classify(1, 2)) == (BETWEEN, BESIDE, None)
