"""TLS 1.3 on raw non-blocking sockets: which context, how a handshake is made, what a ClientHello asks for."""
