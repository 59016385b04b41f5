"""gRPC health against a real HTTP/2 server: SERVING is success, everything else isn't."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.probing.grpc_probe import decode_status, encode_request, probe_grpc
from sidecar.sockets.dial import DialError
from tests.sidecar.probing.servers import Health, a_health_server, an_application, target


def message(payload: bytes) -> bytes:
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("health", "status", "says"),
    [
        (Health(message=message(b"\x08\x01")), 200, b"SERVING\n"),
        (Health(message=message(b"\x08\x02")), 503, b"NOT_SERVING\n"),
        (Health(message=message(b"\x08\x03")), 503, b"SERVICE_UNKNOWN\n"),
        (Health(message=message(b"")), 503, b"UNKNOWN\n"),
        (Health(message=None, status="12"), 503, b"gRPC status 12 said by the test\n"),
        (Health(message=message(b"\x08\x01"), status="5"), 503, b"gRPC status 5 said by the test\n"),
        (Health(message=message(b"\x08\x01"), http_status="404"), 503, b"HTTP status 404\n"),
    ],
)
async def test_only_serving_is_success(health: Health, status: int, says: bytes) -> None:
    async with a_health_server(health) as port:
        outcome = await probe_grpc(target(port, "grpc", service="shop.Api"), "127.0.0.1")
        assert (outcome.status, outcome.body, outcome.has_answer) == (status, says, True)
    assert health.paths == ["/grpc.health.v1.Health/Check"]
    assert health.requests == [message(b"\x0a\x08shop.Api")]


@pytest.mark.parametrize(
    "broken", [b"", b"\x01\x00\x00\x00\x02\x08\x01", b"\x00\x00\x00\x00\x09\x08\x01", b"x" * 99_000]
)
async def test_a_broken_message_is_failure(broken: bytes) -> None:
    async with a_health_server(Health(message=broken)) as port:
        outcome = await probe_grpc(target(port, "grpc"), "127.0.0.1")
        assert (outcome.status, outcome.has_answer) == (502, False)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
async def test_a_server_of_another_protocol_is_failure(answer: bytes) -> None:
    async with an_application({"*": answer}) as application:
        async with asyncio.timeout(120):
            outcome = await probe_grpc(target(application.port, "grpc"), "127.0.0.1")
        assert (outcome.status, outcome.has_answer) == (502, False)
    with pytest.raises(DialError):
        await probe_grpc(target(1, "grpc"), "127.0.0.1")


@given(st.text(max_size=400))
def test_any_services_name_is_one_message(name: str) -> None:
    data = encode_request(name)
    assert int.from_bytes(data[1:5], "big") == len(data) - 5
    assert data.endswith(name.encode())


@given(st.binary(max_size=40))
def test_any_answer_is_a_status_or_an_error(data: bytes) -> None:
    try:
        assert decode_status(message(data)) >= 0
    except ValueError:
        pass


def test_unknown_fields_are_passed_over() -> None:
    fields = b"\x12\x02hi" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x30\x96\x01" + b"\x08\x01"
    assert decode_status(message(fields)) == 1
