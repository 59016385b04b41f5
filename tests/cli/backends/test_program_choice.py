"""Which programs of the queue a command line means."""

from __future__ import annotations

import msgspec
import pytest

from cli.backends.program_choice import (
    CodeWish,
    choose,
    digest_code,
    find_refused,
    list_loaded,
    make_requests,
    name_whole,
    note_loaded,
    read_words,
)
from shared.model.adoption.program_queue import ImageSeen, ProgramQueue, ProgramRefusal, QueuedProgram, Sighting
from shared.model.errors import IdentityError, InputError, NotFoundError
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import CodeCheck, LoadedCode, LoadedObject
from shared.model.identity.program import Program

IMAGE = "registry.example/shop/web:1"
WEB = Workload(namespace="shop", service_account="web")
LOADED = LoadedCode(objects=(LoadedObject(path="/lib/libc.so.6", digest="cc" * 32),))


def wait(
    digits: str, *, main: str = "", account: str = "web", path: str = "/srv/web", image: str = ""
) -> QueuedProgram:
    images = (ImageSeen(image=f"{image}@sha256:{'1' * 64}", first=1, last=2),) if image else ()
    program = Program(digest=digits.ljust(64, "0"), main=main)
    return QueuedProgram(
        seen=Sighting(namespace="shop", service_account=account, program=program, path=path, images=images, code=LOADED)
    )


ONE, TWO = wait("abcdef01"), wait("abcdef02", image=IMAGE)
PYTHON = wait("11112222", main="none", path="/usr/bin/python3", image=IMAGE)
OF_DB = wait("abcdef01", account="db")
ALL = (ONE, TWO, PYTHON, OF_DB)


def test_digests_their_first_digits_and_images_name_entries() -> None:
    assert choose(ALL, workload=None, names=["abcdef01"], image="") == (ONE, OF_DB)
    assert choose(ALL, workload=WEB, names=[f"sha256:{'abcdef01'.ljust(64, '0')}"], image="") == (ONE,)
    assert choose(ALL, workload=None, names=["11112222", "abcdef02"], image="") == (PYTHON, TWO)
    assert choose(ALL, workload=None, names=["11112222/main:none"], image="") == (PYTHON,)
    assert choose(ALL, workload=None, names=[], image=IMAGE) == (TWO, PYTHON)
    with pytest.raises(NotFoundError):
        choose(ALL, workload=None, names=["1" * 4 + "2" * 4 + "0" * 56], image="")  # A whole digest: not its scripts.
    with pytest.raises(NotFoundError):
        choose(ALL, workload=None, names=["99999999"], image="")
    with pytest.raises(NotFoundError):
        choose(ALL, workload=None, names=[], image="registry.example/shop/web")
    two = (wait("abcdef0101"), wait("abcdef0102"))
    with pytest.raises(InputError, match="may be any of"):
        choose(two, workload=None, names=["abcdef01"], image="")
    with pytest.raises(InputError):
        choose(ALL, workload=None, names=[], image="")


def test_words_are_a_workload_and_digests() -> None:
    assert read_words(["shop/web", "abcdef01"]) == (WEB, ("abcdef01",))
    assert read_words(["sha256:abcdef01/main:none"]) == (None, ("sha256:abcdef01/main:none",))
    assert name_whole(["ab" * 32]) == (Program(digest="ab" * 32),)
    assert name_whole(["abcdef01"]) is None
    with pytest.raises(InputError):
        read_words(["shop/web", "curl"])
    with pytest.raises((InputError, IdentityError)):
        read_words(["curl"])


def test_weak_programs_are_approved_apart_and_the_others_keep_their_code() -> None:
    strong, weak = make_requests([TWO, PYTHON], approved_by="alice")
    assert (strong.weak, strong.programs, strong.approved_by) == (False, (TWO.seen.program,), "alice")
    assert strong.code is not None and strong.code.check is CodeCheck.ENFORCE
    assert (weak.weak, weak.programs) == (True, (PYTHON.seen.program,))
    assert weak.code is not None and weak.code.check is CodeCheck.REPORT
    assert [each.service_account for each in make_requests([ONE, OF_DB], approved_by="a")] == ["web", "db"]


def test_a_program_that_makes_code_is_only_reported_unless_that_is_said() -> None:
    """It was approved with ``enforce`` and no JIT: refused at its next connection."""
    seen = msgspec.structs.replace(TWO.seen, code=msgspec.structs.replace(LOADED, anonymous=True))
    node = msgspec.structs.replace(TWO, seen=seen)
    [request] = make_requests([node], approved_by="a")
    assert request.code is not None and (request.code.check, request.code.jit) == (CodeCheck.REPORT, False)
    [request] = make_requests([node], approved_by="a", wish=CodeWish(is_jit=True))
    assert request.code is not None and (request.code.check, request.code.jit) == (CodeCheck.ENFORCE, True)
    [request] = make_requests([node], approved_by="a", wish=CodeWish(check=CodeCheck.ENFORCE))
    assert request.code is not None and (request.code.check, request.code.jit) == (CodeCheck.ENFORCE, False)
    assert make_requests([node], approved_by="a", wish=CodeWish(is_listed=False))[0].code is None
    assert "only reported" in note_loaded(node)
    assert note_loaded(TWO) == ""


def test_what_was_loaded_is_told_and_has_a_digest() -> None:
    assert list_loaded(ONE) == ["/lib/libc.so.6 (sha256:cccccccccccc)"]
    unknown = msgspec.structs.replace(ONE, seen=msgspec.structs.replace(ONE.seen, code=None))
    assert (list_loaded(unknown), note_loaded(unknown), digest_code(unknown)) == ([], "", "")
    other = LoadedCode(objects=(*LOADED.objects, LoadedObject(path="/tmp/evil.so", digest="dd" * 32)))
    changed = msgspec.structs.replace(ONE, seen=msgspec.structs.replace(ONE.seen, code=other))
    assert digest_code(ONE) == digest_code(TWO) != digest_code(changed)


def test_a_refusal_is_found_by_its_digits() -> None:
    refused = ProgramRefusal(
        namespace="shop", service_account="web", program=ONE.seen.program, refused_by="alice", refused=1.0
    )
    queue = ProgramQueue(waiting=(), refused=(refused,))
    assert find_refused(queue, workload=None, names=["abcdef01"]) == {WEB: [ONE.seen.program]}
    with pytest.raises(NotFoundError):
        find_refused(queue, workload=None, names=["abcdef02"])
