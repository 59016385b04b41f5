"""Two ends agree on the newest protocol that both speak, or say why there is none."""

from __future__ import annotations

import pytest

from shared.model.errors import ProtocolError
from shared.model.wire import protocol
from shared.model.wire.protocol import choose_protocol, list_subprotocols, read_chosen_protocol


def test_the_newest_common_protocol_is_chosen() -> None:
    assert list_subprotocols() == ("touchmark.2", "touchmark.1")
    assert choose_protocol(list_subprotocols()) == 2
    assert choose_protocol(["touchmark.3", " touchmark.2 "]) == 2
    assert choose_protocol(["touchmark.1"]) == 1


def test_release_0_1_offered_none_and_chose_none() -> None:
    assert choose_protocol([]) == 1
    assert read_chosen_protocol(None) == 1


@pytest.mark.parametrize("offered", ["touchmark.3", "touchmark", "chat", "x" * 5000])
def test_strangers_and_those_too_far_ahead_are_told_what_is_spoken_here(offered: str) -> None:
    with pytest.raises(ProtocolError, match=r"speaks .*, and this CA touchmark\.2, touchmark\.1") as caught:
        choose_protocol([offered])
    assert len(caught.value.message) < 400
    assert "one minor version apart" in caught.value.hint


def test_a_choice_is_read_back() -> None:
    assert [read_chosen_protocol(name) for name in list_subprotocols()] == [2, 1]
    with pytest.raises(ProtocolError, match="wasn't offered"):
        read_chosen_protocol("touchmark.3")


def test_release_0_1_is_refused_once_it_isnt_spoken_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "OLDEST_PROTOCOL", 2)
    with pytest.raises(ProtocolError, match=r"the sidecar speaks the protocol of release 0\.1"):
        choose_protocol([])
    with pytest.raises(ProtocolError, match=r"the CA speaks the protocol of release 0\.1"):
        read_chosen_protocol(None)
