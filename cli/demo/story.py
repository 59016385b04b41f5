"""The story: the demo's steps, in order, and what each observes. Reads top to bottom. Does I/O.

Commands that a user would type are run as they are shown; facts come from the answers of programs, from packets and
from the CA's decisions, never from expectation.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.backends.session import ask_admin
from cli.backends.target import Target
from cli.demo.facts import Facts
from cli.demo.narrator import Narrator
from cli.demo.packets import PacketWatch
from cli.demo.processes import Outcome, Processes, touchmark_command
from cli.demo.server import Server, write_server
from cli.demo.stage import BESIDE, BETWEEN, Place, Stage
from cli.machine.machine import find_program
from shared.model.errors import MachineError, TouchmarkError, UnavailableError

if TYPE_CHECKING:
    from shared.model.wire.admin import DecisionView

NAMESPACE: Final = "shop"
WEB: Final = "shop/web"
CLIENT: Final = "shop/client"
# A busy machine may give each program a tenth of a core, and a CA needs seconds of it: what must come is waited for.
_START_TIMEOUT_S: Final = 120.0
_OBSERVE_TIMEOUT_S: Final = 60.0
_COMMAND_TIMEOUT_S: Final = 90.0
_REQUEST_TIMEOUT_S: Final = 30
_NEW_ISSUER_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.1


class Story:
    """One telling, on one stage.

    Arguments:
        directory: empty, owner only; the caller removes it.
        server: ``auto``, ``nginx`` or ``python``.
    """

    def __init__(
        self, stage: Stage, directory: Path, processes: Processes, narrator: Narrator, *, server: str = "auto"
    ) -> None:
        self._stage = stage
        self._directory = directory
        self._processes = processes
        self._narrator = narrator
        self._socket = directory / "admin.sock"
        self._target = Target(admin_socket=self._socket)
        self._curl = _find_curl()
        self._intruder = str(directory / "intruder")
        self._server_choice = server
        self._server: Server | None = None
        self.facts = Facts(capture=stage.capture)

    def tell(self) -> None:
        """Tell the whole story.

        Raises:
            TouchmarkError: the stage can't be set. What contradicts the claims later is a fact, not an error.
        """
        self._start_ca()
        self._start_parties()
        self._approve()
        self._show_permissive()
        self._switch_to_explicit()
        self._show_explicit()
        self._show_outsider()
        self._watch_packets()
        self._rotate_issuer()
        self._show_decisions()

    # ---- the stage is set -------------------------------------------------------------------------------------------

    def _start_ca(self) -> None:
        self._narrator.step("Start a CA. No set-up is needed: the first start creates everything.")
        self._narrator.say(self._stage.explanation)
        arguments = [
            "ca", "serve", "--data-dir", str(self._directory / "ca"), "--kek-file", str(self._directory / "kek"),
            "--listen", self._stage.ca_listen, "--admin-socket", str(self._socket),
        ]  # fmt: skip
        self._narrator.typed([*self._stage.ca.prefix, "touchmark", *arguments])
        self._processes.start("ca", [*self._stage.ca.prefix, *touchmark_command(arguments)])
        self._wait_for("the CA", self._has_ca, timeout_s=_START_TIMEOUT_S)
        self._narrator.typed(["export", f"TOUCHMARK_ADMIN_SOCKET={self._socket}"])

    def _start_parties(self) -> None:
        self._narrator.step("Two sidecars join, each with a single-use token that pins the CA's key.")
        for workload, place in ((WEB, self._stage.web), (CLIENT, self._stage.client)):
            name = workload.rpartition("/")[2]
            token, configuration = self._directory / f"{name}.token", self._directory / f"{name}.yaml"
            self._touchmark("ca", "join-token", workload, "--address", place.address, "--output", str(token))
            configuration.write_text(f"instance: {name}\ntokenFile: {token}\n{place.configuration}", encoding="utf-8")
            arguments = ["sidecar", "run", "--config", str(configuration)]
            self._narrator.typed([*place.prefix, "touchmark", *arguments])
            self._processes.start(f"sidecar-{name}", [*place.prefix, *touchmark_command(arguments)])
        self._wait_for("both sidecars", lambda: self._count_connected() == 2, timeout_s=_START_TIMEOUT_S)
        self._server = write_server(self._directory, self._stage.server_listen, choice=self._server_choice)
        self._narrator.say(f"A server runs next to {WEB}'s sidecar: {self._server.description}.")
        self._narrator.typed([*self._stage.web.prefix, *self._server.command])
        self._processes.start("server", [*self._stage.web.prefix, *self._server.command])
        self._wait_for("the server", self._is_listening, timeout_s=_START_TIMEOUT_S)

    def _approve(self) -> None:
        self._narrator.step("Approve the server's program and curl, by hash. A modified curl isn't approved.")
        assert self._server is not None
        self._touchmark("program", "approve", WEB, *self._server.approval)
        self._touchmark("program", "approve", CLIENT, self._curl)
        self._narrator.typed(["cp", self._curl, self._intruder])
        shutil.copy(self._curl, self._intruder)
        self._narrator.typed(["sh", "-c", f"printf x >> {self._intruder}"])
        with open(self._intruder, "ab") as file:
            file.write(b"x")

    # ---- the story --------------------------------------------------------------------------------------------------

    def _show_permissive(self) -> None:
        self._narrator.step("Permissive mode: both programs connect; the unapproved one is marked.")
        self.facts.approved_permissive = self._request(self._stage.client, self._curl, self._stage.client_url)
        self._narrator.conclude(holds=self.facts.approved_permissive, text="the approved program got a response")
        began = time.time()
        flowed = self._request(self._stage.client, self._intruder, self._stage.client_url)
        marked = self._observe(self._intruder_query(began, would_deny="true"))
        self.facts.intruder_permissive_would_deny = flowed and bool(marked)
        self._narrator.conclude(
            holds=self.facts.intruder_permissive_would_deny,
            text="the modified program got a response, too, and its decision says that explicit mode would deny it",
        )
        self._touchmark("decisions", "--would-deny")

    def _switch_to_explicit(self) -> None:
        self._narrator.step("What would explicit mode refuse? Check it before the switch.")
        self._touchmark("mode", NAMESPACE, "explicit", "--check", may_end_with=(0, 3))
        self._touchmark("mode", NAMESPACE, "explicit", "--force")

    def _show_explicit(self) -> None:
        self._narrator.step("Explicit mode: the approved program still works, the modified one is refused.")
        self.facts.approved_explicit = self._request(self._stage.client, self._curl, self._stage.client_url)
        self._narrator.conclude(holds=self.facts.approved_explicit, text="the approved program got a response")
        began = time.time()
        flowed = self._request(self._stage.client, self._intruder, self._stage.client_url)
        denials = self._observe(self._intruder_query(began, denied="true"))
        self.facts.intruder_explicit_refused = not flowed and bool(denials)
        self.facts.intruder_reason = denials[0].record.reason.value if denials else None
        self._narrator.conclude(
            holds=self.facts.intruder_explicit_refused,
            text=f"the modified program was refused, reason {self.facts.intruder_reason}",
        )
        self._touchmark("decisions", "--denied", "--program", self._intruder_digest()[:16])

    def _show_outsider(self) -> None:
        self._narrator.step("A plaintext connection from outside, without a certificate.")
        began = time.time()
        flowed = self._request(self._stage.outsider, self._curl, self._stage.outsider_url)
        denials = self._observe({"denied": "true", "since": str(began), "reason": "peer_unidentified"})
        self.facts.outsider_refused = not flowed and bool(denials)
        self._narrator.conclude(holds=self.facts.outsider_refused, text="the outsider was refused: peer_unidentified")

    def _watch_packets(self) -> None:
        self._narrator.step("Capture packets: where does a marker travel in plaintext?")
        marker = f"touchmark-{secrets.token_hex(12)}"
        watch = PacketWatch(self._stage.taps, marker.encode())
        try:
            with watch:
                self._request(self._stage.client, self._curl, self._stage.client_url, marker=marker)
        except OSError as error:
            self._narrator.say(f"– this user can't capture packets here ({error.strerror}): skipped")
            return
        for leg in sorted(watch.legs.values(), key=lambda leg: leg.name):
            self._narrator.say(f"{leg.name}: {leg.packets} packets, the marker in {leg.hits}")
        self.facts.plaintext_on_wire = watch.find_plaintext(beside=BESIDE, between=BETWEEN)
        self._narrator.conclude(
            holds=self.facts.plaintext_on_wire is False,
            text="the marker was next to the applications, but not between the sidecars"
            if self.facts.plaintext_on_wire is False
            else "the marker was on the wire"
            if self.facts.plaintext_on_wire
            else "the capture is inconclusive",
        )

    def _rotate_issuer(self) -> None:
        self._narrator.step("Rotate the issuer while requests run.")
        answers: list[bool] = []
        is_over = threading.Event()

        def request_on() -> None:
            while not is_over.is_set():
                is_answered, _ = self._is_answered(self._stage.client, self._curl, self._stage.client_url)
                answers.append(is_answered)
                is_over.wait(0.05)

        requester = threading.Thread(target=request_on, name="requests during the rotation")
        try:
            # In here: Ctrl-C may be raised before start() returns, when the thread runs already.
            requester.start()
            self._wait_for("requests", lambda: len(answers) >= 3, timeout_s=_OBSERVE_TIMEOUT_S)
            before = self._issuer()
            began = time.time()
            self._touchmark("ca", "rotate", "issuer")
            after = self._issuer()
            query = {"since": str(began), "limit": "200"}
            seen = self._observe(
                query, lambda view: after in view.record.issuer, timeout_s=_NEW_ISSUER_TIMEOUT_S if after else 0
            )
        finally:
            is_over.set()
            if requester.is_alive():
                requester.join()
        self.facts.rotation_requests = len(answers)
        self.facts.rotation_failures = answers.count(False)
        self._narrator.conclude(
            holds=before != after and self.facts.rotation_failures == 0,
            text=f"{len(answers)} requests, {self.facts.rotation_failures} failed; issuer {before} → {after}",
        )
        self._narrator.conclude(holds=bool(seen), text="later decisions show the new issuer")

    def _show_decisions(self) -> None:
        self._narrator.step("Every connection has a decision, on both sides.")
        # Both sides' records of the last requests may still be on their way.
        least = 2 * (self.facts.rotation_requests or 0)
        deadline = time.monotonic() + _OBSERVE_TIMEOUT_S
        while (counted := self._count_decisions()) <= least and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._touchmark("decisions", "--summary")
        self.facts.decisions = counted

    # ---- how it is done ---------------------------------------------------------------------------------------------

    def _touchmark(self, *arguments: str, may_end_with: tuple[int, ...] = (0,)) -> Outcome:
        self._narrator.typed(["touchmark", *arguments])
        outcome = self._processes.run(touchmark_command(arguments), timeout_s=_COMMAND_TIMEOUT_S, is_merged=True)
        self._narrator.show(outcome.output + outcome.errors)
        if outcome.code not in may_end_with:
            self._processes.check()
            raise UnavailableError(f"touchmark {' '.join(arguments)} exited with code {outcome.code}")
        return outcome

    def _request(self, place: Place, program: str, url: str, *, marker: str = "") -> bool:
        self._narrator.typed([*place.prefix, *_curl_command(program, url, marker)])
        is_answered, outcome = self._is_answered(place, program, url, marker=marker)
        self._narrator.show(outcome.output or outcome.errors)
        return is_answered

    def _is_answered(self, place: Place, program: str, url: str, *, marker: str = "") -> tuple[bool, Outcome]:
        command = [*place.prefix, *_curl_command(program, url, marker)]
        outcome = self._processes.run(command, timeout_s=_REQUEST_TIMEOUT_S + 5)
        assert self._server is not None
        return outcome.code == 0 and self._server.greeting in outcome.output, outcome

    def _observe(
        self,
        query: Mapping[str, str],
        accept: Callable[[DecisionView], bool] = lambda view: True,
        *,
        timeout_s: float = _OBSERVE_TIMEOUT_S,
    ) -> list[DecisionView]:
        """Return the decisions of a query as soon as there are any; none when the deadline passes."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = ask_admin(self._target, lambda client: client.list_decisions(query))
            found = [view for view in answer.decisions if accept(view)]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_S)

    def _wait_for(self, what: str, is_there: Callable[[], bool], *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_there():
            self._processes.check()
            if time.monotonic() >= deadline:
                raise UnavailableError(f"not ready: {what}, within {timeout_s:.0f} s", hint="touchmark doctor")
            time.sleep(_POLL_S)

    def _has_ca(self) -> bool:
        try:
            return ask_admin(self._target, lambda client: client.get_health()).status == "ok"
        except TouchmarkError:
            return False

    def _count_decisions(self) -> int:
        return len(ask_admin(self._target, lambda client: client.list_decisions({"limit": "10000"})).decisions)

    def _count_connected(self) -> int:
        return ask_admin(self._target, lambda client: client.get_status()).sidecars_connected

    def _is_listening(self) -> bool:
        # Asked in the server's own place: a connection to itself is not captured there.
        host, _, port = self._stage.server_listen.rpartition(":")
        probe = f"import socket; socket.create_connection(({host!r}, {port}), 2).close()"
        return self._processes.run([*self._stage.web.prefix, sys.executable, "-c", probe], timeout_s=5).code == 0

    def _issuer(self) -> str:
        return ask_admin(self._target, lambda client: client.get_rotation()).issuer

    def _intruder_digest(self) -> str:
        return hashlib.sha256(Path(self._intruder).read_bytes()).hexdigest()

    def _intruder_query(self, since: float, **more: str) -> dict[str, str]:
        return {"program": f"sha256:{self._intruder_digest()}", "since": str(since), **more}


def _curl_command(program: str, url: str, marker: str) -> Sequence[str]:
    headers = ["-H", f"X-Marker: {marker}"] if marker else []
    return [program, "-sS", "--noproxy", "*", "--max-time", str(_REQUEST_TIMEOUT_S), *headers, url]


def _find_curl() -> str:
    path = find_program("curl")
    if path is None:
        raise MachineError("the demo needs curl", hint="apt install curl")
    return str(Path(path).resolve())
