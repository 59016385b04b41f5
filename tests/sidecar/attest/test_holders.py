"""Who holds a socket."""

import os
import socket

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.holders import find_holder, find_holdings, find_own


def test_this_process_is_found_unless_it_is_the_sidecar() -> None:
    with socket.socket() as held:
        inode = os.fstat(held.fileno()).st_ino
        process = find_holder(inode, os.getuid(), own_pid=0)
        assert process.pid == os.getpid()
        process.close()
        assert inode in find_own()
        assert find_holdings([inode], own_pid=0).holders == {inode: {os.getpid()}}
        assert find_holdings([inode], own_pid=os.getpid()).holders == {inode: set()}
        with pytest.raises(AttestationError) as caught:
            find_holder(inode, os.getuid(), own_pid=os.getpid())
        assert caught.value.reason is Reason.NO_OWNER
