"""Streams for benches: each from an address of its own, and one that isn't served comes again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from bench import light_sidecars
from bench.light_sidecars import close, come_again, enrol, name_address
from bench.subjects.touchmark import run_ca
from sidecar.control import opening


def test_each_has_an_address_of_its_own_in_the_loopback_network() -> None:
    addresses = [name_address(number) for number in range(130_000)]
    assert len(set(addresses)) == len(addresses)
    assert (addresses[0], addresses[249], addresses[250]) == ("127.1.0.1", "127.1.0.250", "127.1.1.1")
    assert all(address.startswith("127.") for address in addresses)


def test_an_attempt_lasts_as_long_as_the_sidecars() -> None:
    assert (light_sidecars.DIAL_S, light_sidecars.WELCOME_S) == (opening._DIAL_S, opening._WELCOME_S)


async def test_who_is_refused_comes_again_until_it_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_ca(tmp_path) as ca:
        sidecars, streams = await enrol(ca, 1)
        await close(streams)
        failed: list[bool] = []

        def fail_once(*arguments: object, **options: object) -> object:
            if not failed:
                failed.append(True)
                raise ConnectionRefusedError
            return connect(*arguments, **options)  # type: ignore[arg-type]  # Passed on as it came.

        monkeypatch.setattr(light_sidecars, "connect", fail_once)
        failures: Counter[str] = Counter()
        await close([await come_again(ca, sidecars[0], failures)])
    assert failures["ConnectionRefusedError"] == 1
