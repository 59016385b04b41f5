"""The queue on the command line: listed, approved singly or all of an image, refused, taken back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cli.commands.program_queue import shorten_image
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.program_queue import ImageSeen, ProgramQueue, ProgramRefusal, QueuedProgram, Sighting
from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.decision import PartyRecord, ProcessRecord
from shared.model.wire.admin import DecisionList, DecisionView, ProgramList, ProgramView
from tests.cli.fake_ca import FakeCA
from tests.shared.model.policy.records import make_record

NGINX, PYTHON, CURL = "ab" * 32, "cd" * 32, "ef" * 32
IMAGE = "registry.example/shop/web:2"
REFUSED = ProgramRefusal(
    namespace="shop", service_account="web", program=Program(digest=CURL), refused_by="alice", refused=1.0,
    path="/usr/bin/curl",
)  # fmt: skip


def wait(digest: str, path: str, main: str = "") -> QueuedProgram:
    images = (ImageSeen(image=f"{IMAGE}@sha256:{'1' * 64}", first=1.0, last=2.0),)
    seen = Sighting(
        namespace="shop", service_account="web", program=Program(digest=digest, main=main), path=path,
        package="nginx 1.22 (dpkg)", images=images, pods=("web-0",), parents=("/bin/sh",), first=1.0, last=2.0,
    )  # fmt: skip
    return QueuedProgram(seen=seen, new_since="registry.example/shop/web:1@sha256:" + "2" * 64)


QUEUE = ProgramQueue(
    waiting=(wait(NGINX, "/usr/sbin/nginx"), wait(PYTHON, "/usr/bin/python3.11", "none")), refused=(REFUSED,)
)


@pytest.fixture
def shop(ca: FakeCA) -> FakeCA:
    ca.answers["GET /v1/programs/queue"] = QUEUE
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    ca.answers["POST /v1/programs"] = ProgramView(
        namespace="shop", name="web-1", service_account="web", programs=(Program(digest=NGINX),), weak=False,
        approved_by="me", approved=1.0,
    )  # fmt: skip
    ca.answers["POST /v1/namespaces/shop/refusals"] = QUEUE
    return ca


@pytest.mark.parametrize("words", [["program", "queue", "shop"], ["program", "list", "shop"]])
def test_what_waits_and_what_was_refused_is_listed(
    shop: FakeCA, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(words) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    for part in (
        "/usr/sbin/nginx", "nginx 1.22 (dpkg)", f"{IMAGE}@sha256:111111111111",
        "registry.example/shop/web:1@sha256:222222222222",
        "/bin/sh", "web-0", "--weak: any Python program", "alice", "/usr/bin/curl", NGINX[:12],
    ):  # fmt: skip
        assert part in shown


def test_json_has_all_of_it(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["program", "queue", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out, type=ProgramQueue) == QUEUE
    assert run(["program", "queue", "--image", IMAGE, "--json"]) == ExitCode.SUCCESS
    assert len(msgspec.json.decode(capsys.readouterr().out, type=ProgramQueue).waiting) == 2
    assert run(["program", "list", "--json"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == "[]\n", "approved ones alone: a script would take the others for approved"


def test_one_program_is_approved_by_its_digest_with_what_was_seen(shop: FakeCA) -> None:
    assert run(["program", "approve", NGINX]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert (request["namespace"], request["service_account"]) == ("shop", "web")
    assert [each["digest"] for each in request["programs"]] == [NGINX]
    assert run(["program", "approve", "shop/web", NGINX, "--from-queue"]) == ExitCode.SUCCESS
    assert run(["program", "approve", "shop/db", NGINX, "--from-queue"]) == ExitCode.NOT_FOUND


EVIL = LoadedCode(objects=(LoadedObject(path="/tmp/evil.so", digest="66" * 32),), anonymous=True)


def test_what_would_be_approved_with_a_program_is_shown_and_asked_about(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    """An LD_PRELOAD'ed object was approved without a word."""
    nginx = QUEUE.waiting[0]
    nginx = msgspec.structs.replace(nginx, seen=msgspec.structs.replace(nginx.seen, code=EVIL))
    shop.answers["GET /v1/programs/queue"] = msgspec.structs.replace(QUEUE, waiting=(nginx, QUEUE.waiting[1]))
    assert run(["program", "queue", "shop"]) == ExitCode.SUCCESS
    assert "/tmp/evil.so" in capsys.readouterr().out
    assert run(["program", "approve", NGINX]) == ExitCode.REFUSED, "a whole digest doesn't name what it loads"
    shown = capsys.readouterr().out
    for part in ("/tmp/evil.so", "66" * 32, "1 object; anonymous executable memory", "only reported"):
        assert part in shown
    assert not shop.asked("POST /v1/programs")
    assert run(["program", "approve", NGINX, "--code", "off"]) == ExitCode.SUCCESS, "nothing else is approved"
    assert run(["program", "approve", NGINX, "--yes"]) == ExitCode.SUCCESS
    assert run(["program", "approve", NGINX, "--yes", "--jit"]) == ExitCode.SUCCESS
    assert run(["program", "approve", NGINX, "--yes", "--loads", "/bin/true"]) == ExitCode.BAD_INPUT
    codes = [each.get("code") or {} for each in shop.asked("POST /v1/programs")]
    assert [(each.get("check"), each.get("jit", False)) for each in codes] == [
        (None, False), ("report", False), ("enforce", True),
    ]  # fmt: skip


def test_of_many_loaded_objects_the_queue_shows_the_oddest_and_an_approval_all(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = [LoadedObject(path=f"/usr/lib/lib{number:02}.so", digest="77" * 32) for number in range(35)]
    code = LoadedCode(objects=(*usual, LoadedObject(path="/var/tmp/evil.so", digest="66" * 32)))
    nginx = QUEUE.waiting[0]
    nginx = msgspec.structs.replace(nginx, seen=msgspec.structs.replace(nginx.seen, code=code))
    shop.answers["GET /v1/programs/queue"] = msgspec.structs.replace(QUEUE, waiting=(nginx,))
    assert run(["program", "queue", "shop"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert (shown.count(".so"), "/var/tmp/evil.so" in shown, "36 objects" in shown) == (5, True, True)
    assert "and 31 more: --loaded lists them" in shown
    assert run(["program", "queue", "shop", "--loaded"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert (shown.count(".so"), "more" in shown) == (36, False)
    assert run(["program", "approve", NGINX]) == ExitCode.REFUSED
    assert capsys.readouterr().out.count(".so") == 36, "nobody approves what wasn't shown"


def test_first_digits_and_images_are_asked_about(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([NGINX[:8]], ["--image", IMAGE]):
        assert run(["program", "approve", *words]) == ExitCode.REFUSED
        said = capsys.readouterr().err
        assert "repeat with --yes" in said
        assert words[0] == "--image" or "1 program needs a review" in said
    assert not shop.asked("POST /v1/programs")
    assert run(["program", "approve", NGINX[:8], "--yes"]) == ExitCode.SUCCESS


def test_of_an_image_only_what_needs_no_weak_is_approved_without_it(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["program", "approve", "--image", IMAGE, "--yes"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert (request.get("weak", False), len(request["programs"])) == (False, 1)
    assert "python3.11 needs --weak: it allows any Python program" in capsys.readouterr().err
    assert run(["program", "approve", f"{PYTHON}/main:none"]) == ExitCode.BAD_INPUT
    assert "any Python program" in capsys.readouterr().err
    assert run(["program", "approve", "--image", IMAGE, "--yes", "--weak"]) == ExitCode.SUCCESS
    requests: list[dict[str, Any]] = shop.asked("POST /v1/programs")[1:]
    assert sorted(each.get("weak", False) for each in requests) == [False, True]


def test_programs_are_refused_and_refusals_taken_back(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["program", "refuse", NGINX]) == ExitCode.SUCCESS
    assert run(["program", "refuse", "--image", IMAGE]) == ExitCode.REFUSED
    assert run(["program", "refuse", "--image", IMAGE, "--yes", "--json"]) == ExitCode.SUCCESS
    assert run(["program", "refuse", CURL[:8], "--take-back"]) == ExitCode.SUCCESS
    assert run(["program", "refuse", NGINX, "--take-back"]) == ExitCode.NOT_FOUND
    assert run(["program", "refuse", "shop/web", "12" * 32]) == ExitCode.SUCCESS
    asked = [
        (len(each["programs"]), each.get("takes_back", False))
        for each in shop.asked("POST /v1/namespaces/shop/refusals")
    ]
    assert asked == [(1, False), (2, False), (1, True), (1, False)]
    assert "refused for shop/web" in capsys.readouterr().out


def test_decisions_dont_propose_what_was_refused_and_say_what_a_weak_one_allows(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    refused, weak = (
        make_record(
            source=PartyRecord(address="198.18.0.2:40000", workload="shop/web", program=program),
            process=ProcessRecord(path=path),
        )
        for program, path in ((f"sha256:{CURL}", "/usr/bin/curl"), (f"sha256:{PYTHON}/main:none", "/usr/bin/python3"))
    )
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=(DecisionView(id=1, record=refused),))
    assert run(["program", "approve", "shop/web", "--from-decisions", "--yes"]) == ExitCode.NOTHING
    both = (DecisionView(id=1, record=refused), DecisionView(id=2, record=weak))
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=both)
    assert run(["program", "approve", "shop/web", "--from-decisions"]) == ExitCode.REFUSED
    shown = capsys.readouterr().out
    assert "allows any Python program that is given by -m, -c or standard input" in shown
    assert CURL not in shown


def test_an_images_digest_is_shortened() -> None:
    assert shorten_image("web:1") == "web:1"
