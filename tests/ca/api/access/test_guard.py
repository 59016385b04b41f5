"""Who may do what on the admin API, on both of its doors (``ca.api.access.guard``, ``ca.api.access.callers``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from ca.api.access import guard, turns
from ca.api.admin import observation
from ca.observation import decisions
from ca.runtime import serve
from ca.runtime.compose import RunningCA
from ca.store.records import DecisionFilter
from cli.admin.client import AdminClient
from cli.admin.credentials import Credentials, sign
from shared.model.errors import InputError, NotAllowedError, NotAuthenticatedError, NotFoundError
from shared.model.trust.admin_access import CHALLENGE_PATH, Challenge, decode_part, format_proof
from shared.model.wire.admin import ErrorAnswer, JoinTokenRequest
from shared.model.wire.admin_audit import read_entry
from tests.ca.kubernetes.faked_cluster import FakeCluster, running_in_cluster
from tests.ca.running import running_ca
from tests.kubernetes.harness import pki

VIEW, OPERATE = "view.touchmark.dev", "operate.touchmark.dev"
TOKENS = "/v1/join-tokens"
JOIN = JoinTokenRequest(workload="shop/web")


class Door:
    """A CA in a cluster, asked on its loopback port."""

    def __init__(self, services: RunningCA, cluster: FakeCluster, session: aiohttp.ClientSession) -> None:
        self.services = services
        self.cluster = cluster
        self._session = session

    async def ask(
        self, path: str, authorization: str = "", *, method: str = "GET", body: object = None
    ) -> tuple[int, str, str]:
        """Return the answer's status, and an error's code and hint."""
        url = f"http://{self.services.admin_listen}{path}"
        headers = {"Authorization": authorization} if authorization else {}
        data = None if body is None else msgspec.json.encode(body)
        async with self._session.request(method, url, headers=headers, data=data) as response:
            content = await response.read()
        if response.status < 300:
            return response.status, "", ""
        error = msgspec.json.decode(content, type=ErrorAnswer)
        return response.status, error.code, error.hint

    async def challenge(self) -> bytes:
        async with self._session.get(f"http://{self.services.admin_listen}{CHALLENGE_PATH}") as response:
            return decode_part(msgspec.json.decode(await response.read(), type=Challenge).challenge)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    cluster = FakeCluster()
    cluster.users = {"olga", "rita"}
    async with (
        running_in_cluster(tmp_path, cluster, admin_host="127.0.0.1") as services,
        aiohttp.ClientSession() as session,
    ):
        yield Door(services, cluster, session)


async def test_whoever_only_reaches_the_port_may_ask_whether_the_ca_is_ready_and_nothing_else(door: Door) -> None:
    assert (await door.ask("/healthz"))[0] == (await door.ask("/metrics"))[0] == 200
    for authorization in ("", "Bearer", "Basic b2xnYTp4", "Bearer nobody", "Touchmark-Certificate YQ.YQ.YQ"):
        for method, path in (("GET", "/v1/status"), ("POST", TOKENS), ("DELETE", "/v1/audit"), ("POST", "/v1/backup")):
            status, code, _ = await door.ask(path, authorization, method=method)
            assert (status, code) == (401, "not_authenticated"), (authorization, path)
    assert (await door.ask("/v1/nothing"))[0] == 404


async def test_a_user_has_the_rights_that_the_cluster_gives(door: Door) -> None:
    decisions, edges = "/v1/decisions?namespace=shop", "/v1/namespaces/shop/edges"
    status, code, hint = await door.ask(decisions, "Bearer rita")
    assert (status, code) == (403, "not_allowed")
    assert "kubectl -n shop create rolebinding NAME --clusterrole=touchmark-view --user=rita" in hint
    door.cluster.rights = {("rita", "get", f"{kind}.{VIEW}", "shop") for kind in ("decisions", "edges")}
    assert (await door.ask(decisions, "Bearer rita"))[0] == (await door.ask(edges, "Bearer rita"))[0] == 200
    refused = ["/v1/decisions", "/v1/decisions?namespace=bank", "/v1/namespaces/bank/edges", "/v1/status"]
    refused += ["/v1/decisions/follow", "/v1/identities?workload=shop/web", "/v1/audit"]
    for path in refused:
        assert (await door.ask(path, "Bearer rita"))[1] == "not_allowed", path
    # A right that is taken away is gone at the next request.
    door.cluster.rights.clear()
    assert (await door.ask(edges, "Bearer rita"))[1] == "not_allowed"


async def test_a_reader_of_everything_changes_nothing(door: Door) -> None:
    kinds = ("decisions", "edges", "connections", "identities", "namespaces", "sidecars", "status")
    door.cluster.rights = {("rita", "get", f"{kind}.{VIEW}", "") for kind in kinds}
    assert (await door.ask("/v1/status", "Bearer rita"))[0] == 200
    _, code, hint = await door.ask(TOKENS, "Bearer rita", method="POST", body=JOIN)
    assert (code, "--clusterrole=touchmark-operator" in hint) == ("not_allowed", True)
    assert (await door.ask("/v1/namespaces/shop/mode", "Bearer rita", method="PUT", body={}))[1] == "not_allowed"


async def test_a_ca_operator_is_named_in_the_audit_log(door: Door) -> None:
    door.cluster.rights = {("olga", "update", f"ca.{OPERATE}", "")}
    assert (await door.ask(TOKENS, "Bearer olga", method="POST", body=JOIN))[0] == 201
    (line,) = (await door.services.store.audit.list_lines(limit=1, newest=True)).lines
    actor = read_entry(line).actor
    assert (actor.kind, actor.name, actor.origin.partition(" ")[0]) == ("user", "olga", "127.0.0.1")


async def test_a_body_that_does_not_come_is_not_waited_for(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its right was checked before it, and may be taken away while it is awaited."""
    monkeypatch.setattr(guard, "BODY_DEADLINE_S", 0.1)
    door.cluster.rights = {("olga", "update", f"ca.{OPERATE}", "")}
    host, _, port = door.services.admin_listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(
            f"POST {TOKENS} HTTP/1.1\r\nHost: ca\r\nAuthorization: Bearer olga\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        async with asyncio.timeout(60):
            assert (await reader.readline()).split()[1] == b"400"
            assert b"didn't come in time" in await reader.readuntil(b"}")
    finally:
        writer.close()
    assert await door.services.store.join_tokens.list_all() == []


async def test_a_connection_that_asks_nothing_more_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "KEEPALIVE_S", 0.1)
    async with running_ca(tmp_path) as services:
        reader, writer = await asyncio.open_unix_connection(str(services.configuration.admin_socket))
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: ca\r\n\r\n")
            async with asyncio.timeout(60):
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
        finally:
            writer.close()


async def test_strangers_take_no_place_of_a_request_whose_caller_isnt_known_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    class Slow(FakeCluster):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            if request.path.endswith("/tokenreviews"):
                asked.set()
                await may_answer.wait()
            return await super().handle(request)

    monkeypatch.setattr(serve, "MAX_ADMIN_CONNECTIONS", 4)
    cluster = Slow()
    cluster.users = {"rita"}
    async with (
        running_in_cluster(tmp_path, cluster, admin_host="127.0.0.1") as services,
        aiohttp.ClientSession() as session,
    ):
        host, _, port = services.admin_listen.rpartition(":")
        # The client would repeat a GET whose connection ends.
        work = Door(services, cluster, session).ask(TOKENS, "Bearer rita", method="POST", body=JOIN)
        asking = asyncio.create_task(work)
        opened = []
        try:
            async with asyncio.timeout(60):
                await asked.wait()
                for _ in range(8):
                    opened.append(await asyncio.open_connection(host, int(port)))
                for reader, _ in opened[:5]:
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
                may_answer.set()
                assert (await asking)[0] == 403, "she is known, and has no right"
        finally:
            for _, writer in opened:
                writer.transport.abort()


async def test_a_namespaces_operator_may_what_the_objects_say_there(door: Door) -> None:
    """In a cluster the objects say it, so that the request ends after the check."""
    door.cluster.rights = {("olga", "update", f"namespaces.{OPERATE}", "shop")}
    program = {"service_account": "web", "programs": [{"digest": "a" * 64}]}
    for method, path, body in (
        ("PUT", "/v1/namespaces/{}/mode", {"mode": "explicit"}),
        ("PUT", "/v1/policies", {"namespace": "{}"}),
        ("POST", "/v1/programs", {"namespace": "{}", **program}),
    ):
        for namespace, code in (("shop", "conflict"), ("bank", "not_allowed"), ("No_Name", "bad_identity")):
            asked = {**body, "namespace": namespace} if "namespace" in body else body
            answered = await door.ask(path.format(namespace), "Bearer olga", method=method, body=asked)
            assert answered[1] == code, (path, namespace)
    assert (await door.ask("/v1/policies", "Bearer olga", method="PUT", body={"name": 7}))[1] == "bad_input"


async def test_a_reader_compares_policies_of_the_namespaces_that_it_reads(door: Door) -> None:
    door.cluster.rights = {("rita", "get", f"decisions.{VIEW}", name) for name in ("shop", "till")}

    async def compare(*namespaces: str) -> tuple[int, str, str]:
        body = {"policies": [{"namespace": name} for name in namespaces]}
        return await door.ask("/v1/policies/difference", "Bearer rita", method="POST", body=body)

    assert (await compare("shop"))[0] == (await compare("till", "shop"))[0] == 200
    for asked in (("shop", "bank"), (), tuple(f"ns{number}" for number in range(9))):
        assert (await compare(*asked))[1] == "not_allowed", asked


async def test_one_caller_asks_few_questions_at_once_and_the_others_are_answered(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.cluster.rights = {(user, "get", f"decisions.{VIEW}", "") for user in ("rita", "olga")}
    asked, answering = 0, asyncio.Event()

    async def query(wanted: DecisionFilter) -> list[object]:
        nonlocal asked
        if wanted.namespace == "shop":
            asked += 1
            await answering.wait()
        return []

    monkeypatch.setattr(door.services.decisions, "query", query)
    slow = "/v1/decisions?namespace=shop"
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(door.ask(slow, "Bearer rita")) for _ in range(turns.MAX_ASKED_OF_ONE + 1)]
        (refused,), _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result() == (429, "too_many_requests", "wait for one of them to be answered")
        assert (await door.ask("/v1/decisions", "Bearer olga"))[0] == 200
        assert asked == turns.AT_ONCE_OF_ONE
        answering.set()
    assert sorted(task.result()[0] for task in tasks) == [200] * turns.MAX_ASKED_OF_ONE + [429]


async def test_a_question_ends_with_its_caller_also_one_with_a_body(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.cluster.rights = {("rita", "get", f"decisions.{VIEW}", "")}
    asked, ended = asyncio.Event(), asyncio.Event()

    async def get_state(_namespace: str) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(door.services.store.namespaces, "get_state", get_state)
    for method, path in (("GET", "/v1/namespaces/shop/readiness"), ("POST", "/v1/policies/difference")):
        asked.clear()
        ended.clear()
        body = {"policies": [{"namespace": "shop"}]}
        asking = asyncio.create_task(door.ask(path, "Bearer rita", method=method, body=body))
        async with asyncio.timeout(60):
            await asked.wait()
            asking.cancel()
            await asyncio.wait({asking})
            await ended.wait()


async def test_a_follower_whose_right_is_taken_away_is_told_and_ended(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "RECHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(decisions, "FOLLOW_IDLE_S", 0.05)
    cluster = pki.ClusterCA()
    door.cluster.client_roots = cluster.certificate.decode()
    pair = cluster.issue("rita")
    async with forwarded(door.services, tmp_path / "forward.sock") as path:
        for own in (
            Credentials(authorization="Bearer rita"),
            Credentials(certificate=pair.certificate, key=pair.key),
        ):
            door.cluster.rights = {("rita", "get", f"decisions.{VIEW}", "shop")}
            async with AdminClient(path, credentials=own) as client:
                following = asyncio.create_task(anext(client.follow_decisions({"namespace": "shop"}), None))
                done, _ = await asyncio.wait({following}, timeout=0.3)
                assert not done
                door.cluster.rights = set()
                with pytest.raises(NotAllowedError, match=r"rita may not get decisions\.view\.touchmark\.dev"):
                    async with asyncio.timeout(60):
                        await following


async def test_a_client_certificate_is_as_good_as_a_token(door: Door) -> None:
    cluster = pki.ClusterCA()
    door.cluster.client_roots = cluster.certificate.decode()
    door.cluster.rights = {("carl", "get", f"status.{VIEW}", "")}
    pair = cluster.issue("carl")
    own = Credentials(certificate=pair.certificate, key=pair.key)
    proof = format_proof(sign(own, await door.challenge()))
    assert (await door.ask("/v1/status", proof))[0] == 200
    assert (await door.ask("/v1/cluster", proof))[0] == 200
    assert (await door.ask("/v1/audit", proof))[1] == "not_allowed"
    door.cluster.client_roots = pki.ClusterCA().certificate.decode()
    assert (await door.ask("/v1/status", proof))[1] == "not_authenticated"


async def test_while_the_api_server_is_away_nobody_is_let_in(door: Door) -> None:
    door.cluster.rights = {("olga", "update", f"ca.{OPERATE}", "")}
    door.cluster.is_away = True
    assert (await door.ask(TOKENS, "Bearer olga", method="POST", body=JOIN))[:2] == (503, "unavailable")
    assert await door.services.store.join_tokens.list_all() == []


async def test_outside_a_cluster_the_port_has_nobody_with_a_role(tmp_path: Path) -> None:
    async with running_ca(tmp_path, admin_host="127.0.0.1") as services, aiohttp.ClientSession() as session:
        outside = Door(services, FakeCluster(), session)
        assert (await outside.ask("/v1/status", "Bearer olga"))[1] == "not_authenticated"
        assert (await outside.ask(CHALLENGE_PATH))[1] == "not_found"


async def test_the_command_shows_the_users_token_or_signs(door: Door, tmp_path: Path) -> None:
    """Over a socket that leads to the port, as a port-forward does."""
    cluster = pki.ClusterCA()
    door.cluster.client_roots = cluster.certificate.decode()
    door.cluster.rights = {(user, "get", f"status.{VIEW}", "") for user in ("olga", "carl")}
    pair = cluster.issue("carl")
    async with forwarded(door.services, tmp_path / "forward.sock") as path:
        for own in (
            Credentials(authorization="Bearer olga"),
            Credentials(certificate=pair.certificate, key=pair.key),
        ):
            async with AdminClient(path, credentials=own) as client:
                assert (await client.get_status()).trust_domain == "touchmark.local"
                with pytest.raises(NotAllowedError, match=r"may not update ca\.operate\.touchmark\.dev"):
                    await client.create_join_token(JOIN)
        async with AdminClient(path, credentials=Credentials()) as client:
            with pytest.raises(NotAuthenticatedError, match="wants the caller's own credentials"):
                await client.get_status()


@contextlib.asynccontextmanager
async def forwarded(services: RunningCA, path: Path) -> AsyncIterator[Path]:
    host, _, port = services.admin_listen.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(pump(reader, downstream), pump(upstream, writer))
        finally:
            downstream.close()
            writer.close()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
            target.close()

    async with await asyncio.start_unix_server(carry, str(path)):
        yield path


# ---- the Unix socket ------------------------------------------------------------------------------------------------

# Another user's process: it connects as that user, which is what the kernel tells the CA.
ASK = """\
import http.client, json, os, socket, sys
uid, gid, *groups = map(int, sys.argv[2:])
os.setgroups(groups)
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(sys.argv[1])
answers = []
for method, path in (("GET", "/v1/status"), ("POST", "/v1/rotation")):
    connection = Connection("ca")
    connection.request(method, path, body="{}" if method == "POST" else None)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    answers.append([answer.status, content.get("code", ""), content.get("message", "")])
    connection.close()
print(json.dumps(answers))
"""
READERS, STRANGER = 41_001, 41_002


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users reach, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="admin-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


async def ask_as(path: Path, *, uid: int, gid: int, groups: list[int]) -> list[list[object]]:
    command = [sys.executable, "-S", "-c", ASK, str(path), *map(str, (uid, gid, *groups))]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors
    answers: list[list[object]] = json.loads(out)
    return answers


@pytest.mark.needs_root
async def test_a_group_reads_on_the_socket_and_root_alone_changes(tmp_path: Path, open_directory: Path) -> None:
    path = open_directory / "admin.sock"
    async with running_ca(tmp_path, admin_socket=path, admin_readers=str(READERS)):
        for gid, groups in ((READERS, []), (STRANGER, [READERS])):
            (read, _, _), (change, code, message) = await ask_as(path, uid=STRANGER, gid=gid, groups=groups)
            assert (read, change, code) == (200, 403, "not_allowed")
            assert message == f"uid {STRANGER} isn't a ca operator here"
        assert [each[0] for each in await ask_as(path, uid=0, gid=0, groups=[])] == [200, 200]
        # Whatever let it in: a member of no group has no role.
        path.chmod(0o666)
        answers = await ask_as(path, uid=STRANGER, gid=STRANGER, groups=[])
        assert [each[1] for each in answers] == ["not_allowed", "not_allowed"]


async def test_readers_that_do_not_exist_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no group 'no-such-group'"):
        async with running_ca(tmp_path, admin_readers="no-such-group"):
            pass


async def test_a_ca_of_0_1_asks_nobody_who_they_are(tmp_path: Path) -> None:
    """It answers 404 to the request for a challenge: the command goes on without showing anything."""
    async with running_ca(tmp_path) as services:
        pair = pki.ClusterCA().issue("carl")
        own = Credentials(certificate=pair.certificate, key=pair.key)
        async with AdminClient(services.configuration.admin_socket, credentials=own) as client:
            assert (await client.get_status()).version
            with pytest.raises(NotFoundError):
                await client.get_cluster()
