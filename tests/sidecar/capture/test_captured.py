"""What capture hands over can't be changed on the way."""

from __future__ import annotations

import socket

import pytest

from sidecar.capture.captured import Captured


def test_it_is_frozen() -> None:
    with socket.socket() as connection:
        here = ("127.0.0.1", 1)
        captured = Captured(connection=connection, source=here, destination=here, app_destination=here)
        with pytest.raises(AttributeError, match="immutable"):
            captured.destination = ("127.0.0.2", 2)  # type: ignore[misc]  # That it fails is the point.
