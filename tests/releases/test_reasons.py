"""Every reason of today, as a tunnel says it, is read by a sidecar of the previous release."""

from __future__ import annotations

from pathlib import Path

from shared.model.policy.reasons import Reason, express_in_first_codes
from sidecar.tunnel.frames import encode_reason
from tests.releases import previous
from tests.shared.model.policy.test_reasons import FIRST_CODES

_ECHO = """
import sys
from sidecar.tunnel import frames
for line in sys.stdin.buffer:
    print(frames.decode_reason(line.rstrip()).value)
"""
_LIST = """
from shared.model.reasons import Reason
print(*Reason)
"""


def test_a_refusal_of_today_ends_no_tunnel_of_the_previous_release(tmp_path: Path) -> None:
    text = b"\n".join(encode_reason(reason) for reason in Reason)
    read = previous.run(previous.unpack(tmp_path), _ECHO, text).decode().split()
    assert read == [express_in_first_codes(reason).value for reason in Reason]


def test_the_first_codes_are_those_of_the_previous_release(tmp_path: Path) -> None:
    """With another release kept, a newer set of codes is what peers know: ``FIRST_CODES`` and its mapping follow."""
    assert frozenset(previous.run(previous.unpack(tmp_path), _LIST).decode().split()) == FIRST_CODES
