"""How much may be encrypted with one key, and how much that is. Pure.

AES-GCM's limit is 2**24.5 full records for each key (RFC 8446, section 5.5), that is 2**34.5 blocks of 16 bytes. Each
direction of a connection has a key of its own, and short records use up less than full ones. pyOpenSSL has no key
update: a tunnel makes a new handshake instead (``sidecar/tunnel/tunnel.py``).
"""

from __future__ import annotations

from typing import Final

# Of one direction: about 388 GiB.
MAX_KEY_BYTES: Final = int(2**38.5)
# What a record counts beside its payload: a block begun, and the tag's.
RECORD_OVERHEAD_BYTES: Final = 32
# Keys are renewed, and an idle tunnel is given up, when so much is used: the rest is for what is under way by then.
RENEWED_AT_BYTES: Final = MAX_KEY_BYTES * 3 // 4
