"""CEF lines: seven fields of the head, and values that can't leave their key."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from shared.model.formats.cef import write_line
from tests.shared.model.formats.examples import ALLOWED, DENIED, DIGEST, STARTED
from tests.shared.model.policy.records import make_record

_PAIR = re.compile(r"(?:^| )([A-Za-z0-9]+)=((?:[^\\=]|\\.)*?)(?= [A-Za-z0-9]+=|$)")


def parse(line: str) -> tuple[list[str], dict[str, str]]:
    parts = re.split(r"(?<!\\)\|", line, maxsplit=7)
    values = {
        key: re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], value)
        for key, value in _PAIR.findall(parts[7])
    }
    return parts[:7], values


def test_a_refusal_names_who_what_and_why() -> None:
    head, values = parse(write_line(DENIED))
    assert head[:3] == ["CEF:0", "Touchmark", "touchmark"]
    assert head[4:] == ["program_not_approved", "Connection refused", "6"]
    assert values["act"] == "deny"
    assert (values["src"], values["spt"], values["dst"], values["dpt"]) == ("198.18.0.2", "40000", "198.18.0.3", "5432")
    assert (values["filePath"], values["fileHash"]) == ("/usr/bin/curl", DIGEST)
    assert values["cs1Label"] == "sourceWorkload"
    assert values["cs1"] == "shop/web"


def test_ipv6_addresses_have_keys_of_their_own() -> None:
    _, values = parse(write_line(ALLOWED))
    assert (values["c6a2"], values["c6a3"]) == ("2001:db8::1", "2001:db8::2")
    assert "src" not in values
    assert parse(write_line(STARTED))[1]["act"] == "would_deny"


@given(st.text(max_size=40))
def test_no_text_ends_its_field_or_its_line(text: str) -> None:
    line = write_line(make_record(detail=text, rule=text, source=DENIED.source))
    assert line.isprintable() or not any(ord(each) < 32 for each in line)
    assert len(line.splitlines()) == 1
    values = parse(line)[1]
    assert (values["act"], values["cn1"]) == ("deny", "1")
