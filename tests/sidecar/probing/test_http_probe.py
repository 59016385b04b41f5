"""HTTP probes against real servers: what the kubelet calls success, its headers, its redirects, its limits."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.probing.http_probe import MAX_REDIRECTS, probe_http
from sidecar.sockets.dial import DialError
from tests.sidecar.probing.servers import Application, an_application, respond, serving, target


def header(application: Application, name: str, number: int = -1) -> list[str]:
    """The values of a header in one request, in order."""
    lines = application.requests[number].decode().split("\r\n")[1:]
    return [line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name.lower()}: ")]


@pytest.mark.parametrize("status", [200, 204, 302, 399, 400, 404, 500, 503])
async def test_the_answers_status_and_body_are_passed_on(status: int) -> None:
    body = b"" if status == 204 else b"so it is"
    async with an_application({"/healthz?a=b&c": respond(status, body)}) as application:
        outcome = await probe_http(target(application.port, path="/healthz?a=b&c"), "127.0.0.1")
        assert (outcome.status, outcome.body, outcome.has_answer) == (status, body, True)
        assert application.requests[0].startswith(b"GET /healthz?a=b&c HTTP/1.1\r\n")


async def test_headers_are_sent_in_order_and_host_and_agent_can_be_set() -> None:
    async with an_application({"/": respond(200)}) as application:
        await probe_http(target(application.port), "127.0.0.1")
        assert header(application, "host") == [f"127.0.0.1:{application.port}"]
        assert header(application, "user-agent")[0].startswith("kube-probe/")
        assert header(application, "accept") == ["*/*"]
        assert header(application, "connection") == ["close"]
        headers = (
            ("host", "shop.example"), ("X-One", "1"), ("x-one", "2"), ("User-Agent", "mine"), ("Accept", ""),
            ("Content-Length", "5"), ("Connection", "keep-alive"),
        )  # fmt: skip
        outcome = await probe_http(target(application.port, headers=headers), "127.0.0.1")
        assert outcome.status == 200
        assert header(application, "host") == ["shop.example"]
        assert header(application, "x-one") == ["1", "2"]
        assert header(application, "user-agent") == ["mine"]
        assert header(application, "accept") == header(application, "content-length") == []
        assert header(application, "connection") == ["close"]


async def test_https_is_asked_without_verification() -> None:
    async with an_application({"/": respond(200, b"secret")}, tls=True) as application:
        outcome = await probe_http(target(application.port, scheme="HTTPS"), "127.0.0.1")
        assert (outcome.status, outcome.body) == (200, b"secret")
        outcome = await probe_http(target(application.port), "127.0.0.1")  # Plain HTTP to a TLS port.
        assert not outcome.is_success


async def test_https_to_a_server_of_something_else_is_failure() -> None:
    async def talk_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example\r\n")
        await reader.read()

    async with serving(talk_first, "127.0.0.1") as port:
        outcome = await probe_http(target(port, scheme="HTTPS"), "127.0.0.1")
        assert (outcome.status, outcome.has_answer) == (502, False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_on_the_same_host_are_followed_to_another_port_as_well(status: int) -> None:
    async with an_application({"/there?x=1": respond(200, b"there")}) as second:
        answers = {
            "/": respond(status, headers={"Location": "next"}),
            "/next": respond(status, headers={"Location": f"http://127.0.0.1:{second.port}/there?x=1#part"}),
        }
        async with an_application(answers) as first:
            headers = (("Host", "shop.example"), ("X-Mine", "1"))
            outcome = await probe_http(target(first.port, headers=headers), "127.0.0.1")
            assert (outcome.status, outcome.body) == (200, b"there")
            assert header(first, "host") == ["shop.example"]  # The redirect was relative.
            assert header(second, "host") == [f"127.0.0.1:{second.port}"]
            assert header(second, "x-mine") == ["1"]


@pytest.mark.parametrize("location", ["http://elsewhere.example/", "https://127.0.0.2/", "//198.18.0.9/x"])
async def test_a_redirect_to_another_host_ends_there_and_is_success(location: str) -> None:
    async with an_application({"/": respond(302, b"away", {"Location": location})}) as application:
        outcome = await probe_http(target(application.port), "127.0.0.1")
        assert (outcome.status, outcome.is_success) == (302, True)


async def test_a_redirect_without_a_place_is_success_and_one_to_no_url_is_failure() -> None:
    answers = {
        "/": respond(302),
        "/mail": respond(302, headers={"Location": "mailto:x@y"}),
        "/port": respond(302, headers={"Location": "http://127.0.0.1:99999/"}),
    }
    async with an_application(answers) as application:
        assert (await probe_http(target(application.port), "127.0.0.1")).status == 302
        for path in ("/mail", "/port"):
            assert not (await probe_http(target(application.port, path=path), "127.0.0.1")).is_success


async def test_the_eleventh_redirect_is_failure() -> None:
    async with an_application({"/": respond(302, headers={"Location": "/"})}) as application:
        outcome = await probe_http(target(application.port), "127.0.0.1")
        assert (outcome.status, outcome.has_answer) == (502, False)
        assert len(application.requests) == MAX_REDIRECTS + 1


async def test_ten_kibibytes_of_a_body_are_enough() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000
    async with an_application({"/": endless}) as application:
        outcome = await probe_http(target(application.port), "127.0.0.1")
        assert (outcome.status, len(outcome.body)) == (200, 10 * 1024)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000,
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_failure(answer: bytes) -> None:
    async with an_application({"/": answer}) as application:
        outcome = await probe_http(target(application.port), "127.0.0.1")
        assert (outcome.status, outcome.has_answer) == (502, False)


async def test_informational_answers_and_http_1_0_are_understood() -> None:
    answers = {
        "/early": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + respond(200, b"late"),
        "/old": b"HTTP/1.0 200 OK\r\n\r\nold",
    }
    async with an_application(answers) as application:
        for path, body in (("/early", b"late"), ("/old", b"old")):
            outcome = await probe_http(target(application.port, path=path), "127.0.0.1")
            assert (outcome.status, outcome.body) == (200, body)


async def test_what_cannot_be_sent_is_not_dialled_for() -> None:
    for wrong in ({"path": "/a b"}, {"headers": (("X", "a\r\nY: b"),)}, {"headers": (("a b", "x"),)}):
        outcome = await probe_http(target(1, **wrong), "127.0.0.1")
        assert (outcome.status, outcome.has_answer) == (502, False)


async def test_nobody_there_is_the_dials_error() -> None:
    with pytest.raises(DialError):
        await probe_http(target(1), "127.0.0.1")


async def test_ipv6_is_asked_as_ipv4_is() -> None:
    async with an_application({"/": respond(200, b"six")}, address="::1") as application:
        outcome = await probe_http(target(application.port), "::1")
        assert (outcome.status, outcome.body) == (200, b"six")
        assert header(application, "host") == [f"[::1]:{application.port}"]
