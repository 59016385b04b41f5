"""Records read and written straight through OpenSSL: bounds, and pyOpenSSL's own exceptions."""

import pytest
from OpenSSL import SSL

from sidecar.tls.records import Buffer, name_error
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint
from tests.sidecar.tls.test_handshake import make_tunnels


async def test_records_arrive_where_they_are_wanted_and_failures_have_pyopenssls_names() -> None:
    first, second = await make_tunnels(Mint())
    sender, receiver, buffer = first._tls, second._tls, Buffer(64)
    with pytest.raises(SSL.WantReadError):
        receiver.receive(buffer, 0, 64)
    sender.send(memoryview(b"0123456789")[:4])
    sender.send(b"abc")
    received: list[int] = []

    def receive() -> bool:
        try:
            received.append(receiver.receive(buffer, 8 + sum(received), 16))
        except SSL.WantReadError:
            pass
        return len(received) == 2

    await until(receive)
    assert received == [4, 3]
    assert bytes(buffer.view[7:16]) == b"\x000123abc\x00"
    for offset, most in ((-1, 4), (0, 65), (64, 1), (0, 0)):
        with pytest.raises(ValueError, match="fit"):
            receiver.receive(buffer, offset, most)
    first.connection.shutdown(2)
    with pytest.raises(SSL.SysCallError, match="EOF"):
        await until(receive)
    first.close()
    second.close()


async def test_a_send_that_must_wait_says_so() -> None:
    first, second = await make_tunnels(Mint())
    with pytest.raises(SSL.WantWriteError):
        for _ in range(10_000):
            first._tls.send(bytes(16_000))
    second.close()
    first.close()
    await until(lambda: first.connection.fileno() < 0)  # It waits for what the kernel still holds.


def test_an_error_that_another_thread_took_out_of_the_queue_is_named_as_pyopenssl_names_it() -> None:
    queued = 20 << 23 | 281  # ERR_PACK, include/openssl/err.h: ERR_LIB_SSL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC.
    assert name_error(queued).args == ([("SSL routines", "", "decryption failed or bad record mac")],)
    assert name_error(0xFFFFFFF).args == ([("", "", "")],)
