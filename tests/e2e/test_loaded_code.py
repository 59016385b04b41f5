"""Code loaded into approved programs: by ``LD_PRELOAD``, while a connection lives, or into a listener."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cli.machine.loaded_objects import list_loaded, read_objects
from shared.model.identity.loaded_code import ApprovedCode, CodeCheck, LoadedCode, LoadedObject
from shared.model.policy.decision import Answer, Ending
from shared.model.policy.reasons import Reason
from tests.e2e.harness.commands import Operator
from tests.e2e.harness.mesh import wait_until
from tests.e2e.harness.programs import Executable
from tests.e2e.harness.records import Log
from tests.e2e.harness.shop import CLIENT, SERVER, Shop
from tests.sidecar.loaded.loading import make_library

pytestmark = pytest.mark.needs_root


@dataclass(frozen=True, kw_only=True)
class Curl:
    """A curl with a digest of its own, and the library that its user names."""

    executable: Executable
    intruder: Path

    def get(self, shop: Shop, port: int, *, is_preloaded: bool) -> subprocess.CompletedProcess[str]:
        """Fetch a page from the shop's server."""
        preload = [f"LD_PRELOAD={self.intruder}"] if is_preloaded else []
        url = f"http://{shop.address}:{port}/"
        return shop.client.pod.run("env", *preload, str(self.executable.path), "-sS", "-m", "50", url)


@pytest.fixture
def curl(shop: Shop) -> Curl:
    executable = shop.mesh.make_program("curl")
    found = shutil.which("curl")
    assert found is not None
    shutil.copy(found, executable.path)
    with executable.path.open("ab") as file:
        file.write(executable.path.name.encode())
    intruder = make_library(executable.path.parent, f"{executable.path.name}.so")
    with intruder.open("ab") as library:  # A test approves it, for all of its workload's programs.
        library.write(executable.path.name.encode())
    return Curl(executable=executable, intruder=intruder)


def closure(executable: Executable) -> tuple[LoadedObject, ...]:
    return list_loaded(executable.path)


def find_code(log: Log, executable: Executable) -> LoadedCode | None:
    """Return what a record says that a program has loaded."""
    for record in log.read():
        if record.process.digest == executable.digest and record.process.code is not msgspec.UNSET:
            return record.process.code
    return None


@pytest.mark.proves(Reason.CODE_NOT_APPROVED)
@pytest.mark.fixes(Reason.CODE_NOT_APPROVED)
def test_a_preloaded_library_takes_the_approved_programs_mark_away(shop: Shop, curl: Curl, operator: Operator) -> None:
    """The executable's digest is approved in both runs."""
    shop.mesh.approve(CLIENT, curl.executable, code=ApprovedCode(objects=closure(curl.executable)))
    port = shop.sell("http")
    shop.be_explicit()
    plain = curl.get(shop, port, is_preloaded=False)
    assert (plain.returncode, plain.stdout) == (0, "bread"), plain.stderr
    preloaded = curl.get(shop, port, is_preloaded=True)
    # curl is told of the reset while it connects, sends or receives, whichever comes after it.
    assert preloaded.returncode in {7, 55, 56} and preloaded.stdout == "", preloaded.stderr
    record = shop.client.log.expect_denied(Reason.CODE_NOT_APPROVED, port=port)
    assert str(curl.intruder) in record.detail
    assert record.process.digest == curl.executable.digest
    assert curl.get(shop, port, is_preloaded=False).stdout == "bread"
    operator.type(f"touchmark program update-code {CLIENT} {curl.intruder} --yes")
    shop.mesh.wait_installed("shop")
    assert curl.get(shop, port, is_preloaded=True).stdout == "bread"


def test_in_permissive_mode_it_goes_on_without_the_mark(shop: Shop, curl: Curl) -> None:
    shop.mesh.approve(CLIENT, curl.executable, code=ApprovedCode(objects=closure(curl.executable)))
    port = shop.sell("http")
    shop.be_permissive()
    assert curl.get(shop, port, is_preloaded=True).stdout == "bread"
    record = shop.client.log.expect(Answer.ALLOW, Reason.CODE_NOT_APPROVED, port=port, would_deny=True)
    assert record.source.identity.endswith("/sa/client/sidecar")
    assert str(curl.intruder) in record.detail


def test_what_is_only_reported_goes_on_and_the_record_says_what_was_loaded(shop: Shop, curl: Curl) -> None:
    code = ApprovedCode(objects=closure(curl.executable), check=CodeCheck.REPORT)
    shop.mesh.approve(CLIENT, curl.executable, code=code)
    port = shop.sell("http")
    shop.be_explicit()
    assert curl.get(shop, port, is_preloaded=True).stdout == "bread"
    record = shop.client.log.expect(Answer.ALLOW, Reason.SAME_GROUP, port=port)
    assert str(curl.intruder) in record.detail


@pytest.mark.proves(Reason.CODE_NOT_APPROVED)
def test_a_library_loaded_while_a_connection_lives_ends_it(shop: Shop) -> None:
    """What it had loaded at first is taken from its record, as ``--from-decisions`` does."""
    program = shop.mesh.make_program("loader")
    intruder = make_library(program.path.parent, f"{program.path.name}.so")
    port = shop.sell("echo")
    shop.be_permissive()
    shop.mesh.approve(CLIENT, program)
    actor = shop.buy(program)

    def is_told() -> bool:
        """Its code is looked at beside its first connections."""
        assert actor.do("exchange", shop.address, port, "bread") == "bread<end>"
        return find_code(shop.client.log, program) is not None

    wait_until(is_told, "a record with loaded code")
    found = find_code(shop.client.log, program)
    assert found is not None
    objects = found.objects
    shop.mesh.approve(CLIENT, program, code=ApprovedCode(objects=objects))
    shop.be_explicit()
    assert actor.do("connect", "kept", shop.address, port) == "connected"
    actor.do("send", "kept", "bread")
    assert actor.do("receive", "kept", 5) == "bread"
    assert actor.do("load", str(intruder)) == "loaded"
    assert actor.do("receive_rest", "kept") == "<ECONNRESET>"
    record = shop.client.log.expect_denied(Reason.CODE_NOT_APPROVED, port=port)
    assert record.ending is Ending.POLICY_CHANGED
    assert str(intruder) in record.detail
    assert actor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    more = ApprovedCode(objects=(*objects, *read_objects([intruder])))
    shop.mesh.approve(CLIENT, program, code=more)
    assert actor.do("connect", "again", shop.address, port) == "connected"
    actor.do("send", "again", "bread")
    assert actor.do("receive", "again", 5) == "bread"


@pytest.mark.proves(Reason.CODE_NOT_APPROVED)
def test_a_listener_that_has_loaded_other_code_shows_no_program(shop: Shop) -> None:
    """Python loads modules of its own, which no loader names."""
    program = shop.mesh.make_program("server")
    shop.mesh.approve(SERVER, program, code=ApprovedCode(objects=closure(program)))
    port = shop.mesh.serve(program, shop.server.pod, "answer")
    shop.be_permissive()
    actor = shop.buy()
    assert actor.do("exchange", shop.address, port, "bread") == "got bread<end>"
    record = shop.server.log.expect(Answer.ALLOW, Reason.CODE_NOT_APPROVED, port=port, would_deny=True)
    assert (record.process.digest, record.destination.program) == (program.digest, "")
    shop.be_explicit()
    assert actor.do("exchange", shop.address, port, "bread") == "<ECONNRESET>"
    shop.client.log.expect_denied(Reason.CODE_NOT_APPROVED, port=port)
