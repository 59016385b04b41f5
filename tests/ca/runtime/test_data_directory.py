"""One CA works in a data directory (``ca.runtime.data_directory``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import ConflictError
from tests.ca.running import running_ca


async def test_a_second_ca_in_the_same_directory_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        with pytest.raises(ConflictError, match="another CA works in"):
            async with running_ca(tmp_path, admin_socket=tmp_path / "other.sock"):
                pass
        assert services.configuration.admin_socket.is_socket()
    async with running_ca(tmp_path):
        pass
