"""The tunnel between two sidecars: one mutual TLS connection that carries application connections one after another.

Vocabulary: the *initiator* dialled the tunnel and sends OPEN; the *responder* serves it. An *epoch* is one application
connection's turn on the tunnel. A *frame* is type u8, epoch u8, payload length u16 and the payload; a TLS record holds
whole frames, mostly one. ``frames.py`` is the codec, ``frame_reader.py`` cuts frames out of what was read,
``turns.py`` says who may send what when, ``pool.py`` which tunnel is used again (all pure); ``tunnel.py`` reads and
writes.
"""
