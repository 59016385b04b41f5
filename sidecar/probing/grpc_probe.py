"""A gRPC probe: ``grpc.health.v1.Health/Check`` over plaintext HTTP/2, successful where the answer is SERVING.

Its messages are so small that they are written and read here by hand. Source: the gRPC health checking protocol, gRPC
over HTTP/2, Protocol Buffers' encoding; kubernetes/pkg/probe/grpc. Import it only where there is such a probe: h2 is
1.3 MiB of memory.
"""

from __future__ import annotations

import asyncio
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from shared.model.kubernetes.contract import ProbeTarget
from shared.model.version import VERSION
from sidecar.probing.outcome import Outcome, fail
from sidecar.sockets.dial import dial

_MAX_ANSWER_BYTES = 64 * 1024
_STATUS_NAMES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING = 1


async def probe_grpc(target: ProbeTarget, address: str, *, mark: int = 0) -> Outcome:
    """Ask for the service's health; the caller sets the deadline.

    Raises:
        DialError: nothing answers.
    """
    loop = asyncio.get_running_loop()
    connection = await dial(loop, (address, target.port), mark=mark, timeout_s=target.timeout_s)
    try:
        reader, writer = await asyncio.open_connection(sock=connection)
    except BaseException:
        connection.close()
        raise
    authority = f"[{address}]:{target.port}" if ":" in address else f"{address}:{target.port}"
    try:
        return await _check(reader, writer, authority, target.service)
    except (h2.exceptions.H2Error, ConnectionError, EOFError, ValueError) as error:
        return fail(f"gRPC {authority}: {str(error) or type(error).__name__}")
    finally:
        writer.transport.abort()


async def _check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str, service: str) -> Outcome:
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    http.initiate_connection()
    headers = [
        (":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"), (":authority", authority),
        ("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", f"kube-probe/touchmark-{VERSION}"),
    ]  # fmt: skip
    stream = http.get_next_available_stream_id()
    http.send_headers(stream, headers)
    http.send_data(stream, encode_request(service), end_stream=True)
    writer.write(http.data_to_send())
    answer, fields = bytearray(), dict[str, str]()
    while True:
        data = await reader.read(65536)
        if not data:
            raise EOFError("the connection ended without an answer")
        for event in http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                fields.update((str(name), str(value)) for name, value in event.headers or ())
            elif isinstance(event, h2.events.DataReceived):
                answer += event.data or b""
                http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                if len(answer) > _MAX_ANSWER_BYTES:
                    raise ValueError("the answer is too long")
            elif isinstance(event, h2.events.StreamEnded):
                return _judge(fields, bytes(answer))
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise EOFError(f"the server ended it with error {event.error_code}")
        writer.write(http.data_to_send())


def _judge(fields: dict[str, str], answer: bytes) -> Outcome:
    if fields.get(":status") != "200":
        return Outcome(status=503, body=f"HTTP status {fields.get(':status', '')}\n".encode())
    if (code := fields.get("grpc-status", "")) != "0":
        message = fields.get("grpc-message", "")
        return Outcome(status=503, body=f"gRPC status {code[:8]} {message[:200]}\n".encode("utf-8", "replace"))
    number = decode_status(answer)
    name = _STATUS_NAMES.get(number, str(number))
    return Outcome(status=200 if number == _SERVING else 503, body=f"{name}\n".encode())


def encode_request(service: str) -> bytes:
    """Write a ``HealthCheckRequest`` (field 1: the service's name) as one gRPC message."""
    name = service.encode()
    message = b"\x0a" + _encode_varint(len(name)) + name if name else b""
    return struct.pack("!BI", 0, len(message)) + message


def decode_status(answer: bytes) -> int:
    """Read the status (field 1) of a ``HealthCheckResponse`` in one gRPC message; 0 when the field isn't there.

    Raises:
        ValueError: it isn't such a message.
    """
    if len(answer) < 5:
        raise ValueError("no message in the answer")
    compressed, length = struct.unpack_from("!BI", answer)
    message = answer[5 : 5 + length]
    if compressed or len(message) != length:
        raise ValueError("a compressed or truncated message")
    status, position = 0, 0
    while position < len(message):
        tag, position = _decode_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _decode_varint(message, position)
            status = value if number == 1 else status
        elif kind == 2:
            length, position = _decode_varint(message, position)
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError("a message that can't be read")
    if position > len(message):
        raise ValueError("a truncated message")
    return status


def _encode_varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _decode_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("a number that doesn't end")
