"""Which socket can be the one that made an accepted connection."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.dialled import check_dialled, find_dialled, refuse_orphan
from sidecar.attest.facts import AttestationError
from sidecar.attest.netlink.kernel_sockets import KernelSockets


def test_the_one_that_dialled_is_found_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        found = find_dialled(client.getsockname(), server.getsockname())
        assert found.inode == os.fstat(client.fileno()).st_ino
        check_dialled(found)
        with pytest.raises(AttestationError) as gone:
            find_dialled(client.getsockname(), ("127.0.0.2", server.getsockname()[1]))
        assert gone.value.reason is Reason.SENDER_GONE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": 2}, Reason.SOCKET_AMBIGUOUS),  # SYN_SENT: not the one whose connection was accepted.
        ({"state": 8}, Reason.SOCKET_AMBIGUOUS),  # CLOSE_WAIT: its peer has ended, and this sidecar hasn't.
        ({"inode": 0}, Reason.SENDER_GONE),
    ],
)
def test_a_socket_in_another_state_is_another_connections(changes: dict[str, int], reason: Reason) -> None:
    kernel = KernelSockets()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        found = kernel.find(client.getsockname(), server.getsockname())
        kernel.close()
        assert found is not None
        refuse_orphan(found)
        with pytest.raises(AttestationError) as refused:
            check_dialled(msgspec.structs.replace(found, **changes))
        assert refused.value.reason is reason
