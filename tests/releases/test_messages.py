"""Every message of today, as it is told to the previous release, is read there and says the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shared.model.version import VERSION
from shared.model.wire.messages import (
    FromCA,
    FromSidecar,
    Message,
    Welcome,
    decode_from_ca,
    decode_from_sidecar,
    encode_message,
    express_in,
)
from shared.model.wire.protocol import OLDEST_PROTOCOL, PROTOCOL
from tests.releases import previous
from tests.shared.model.wire.test_messages import FROM_CA, FROM_SIDECAR, kind

# The previous release reads each line and writes what it understood.
_ECHO = """
import sys
from shared.model import messages, version
print(version.VERSION)
for line in sys.stdin.buffer:
    print(messages.encode_message(getattr(messages, sys.argv[1])(line)).decode())
"""


def echo(directory: Path, decoder: str, messages: list[Message]) -> list[bytes]:
    told = [express_in(OLDEST_PROTOCOL, message) for message in messages]
    text = b"\n".join(encode_message(message) for message in told if message is not None)
    program = f"import sys; sys.argv.append({decoder!r}){_ECHO}"
    version, *lines = previous.run(previous.unpack(directory), program, text).splitlines()
    assert version.decode() == previous.VERSION
    return lines


def test_the_kept_release_is_one_minor_version_back() -> None:
    major, minor, _ = (int(part) for part in VERSION.split("."))
    assert previous.VERSION.split(".")[:2] == [str(major), str(minor - 1)], "scripts/keep_release.sh keeps another"
    assert (PROTOCOL, OLDEST_PROTOCOL) == (2, 1)


def test_a_sidecar_of_today_is_understood_by_the_previous_ca(tmp_path: Path) -> None:
    messages: list[Message] = list(FROM_SIDECAR)
    assert [decode_from_sidecar(line) for line in echo(tmp_path, "decode_from_sidecar", messages)] == [
        message for message in (express_in(1, each) for each in FROM_SIDECAR) if message is not None
    ]


def test_the_ca_of_today_is_understood_by_a_previous_sidecar(tmp_path: Path) -> None:
    messages: list[Message] = list(FROM_CA)
    assert [decode_from_ca(line) for line in echo(tmp_path, "decode_from_ca", messages)] == [
        message for message in (express_in(1, each) for each in FROM_CA) if message is not None
    ]


@pytest.mark.parametrize("message", [*FROM_SIDECAR, *FROM_CA], ids=kind)
def test_between_equals_everything_is_said(message: FromSidecar | FromCA) -> None:
    assert express_in(PROTOCOL, message) is message


def test_what_a_protocol_adds_isnt_written_for_those_before_it() -> None:
    welcome = next(each for each in FROM_CA if isinstance(each, Welcome))
    assert welcome.ca_version
    told = express_in(1, welcome)
    assert told is not None
    assert "ca_version" not in msgspec.json.decode(encode_message(told))
