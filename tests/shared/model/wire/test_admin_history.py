"""What an older CA or command is sent about histories stays readable."""

from __future__ import annotations

import msgspec

from shared.model.policy.rules import Mode
from shared.model.wire.admin import ModeRequest
from shared.model.wire.admin_history import UndoRequest


def test_a_switch_that_stays_is_written_as_a_ca_of_0_1_reads_it_and_a_trial_is_not() -> None:
    """That CA refuses fields that it doesn't know: it never takes a trial for a switch for good."""
    assert msgspec.json.encode(ModeRequest(mode=Mode.EXPLICIT)) == b'{"mode":"explicit"}'
    assert b"for_s" in msgspec.json.encode(ModeRequest(mode=Mode.EXPLICIT, for_s=60.0))


def test_an_undo_names_only_what_was_asked_for() -> None:
    assert msgspec.json.encode(UndoRequest()) == b"{}"
    assert msgspec.json.decode(b'{"to":3}', type=UndoRequest) == UndoRequest(to=3)
