"""The CA's TCP listeners, bound before anything else: a port in use must not leave a new store behind. I/O: sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ca.listening import bind
from ca.settings.configuration import Configuration, format_endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """The listening sockets.

    Attributes:
        admin: of the admin API's loopback address; None: there is none.
        listen, admin_listen: ``host:port`` as configured, with the real port; empty: there is none.
    """

    sidecars: socket.socket
    admin: socket.socket | None
    listen: str
    admin_listen: str


@contextlib.contextmanager
def bind_listeners(configuration: Configuration) -> Iterator[Listeners]:
    """Bind them for as long as the context lasts.

    Raises:
        InputError: an address can't be resolved.
        UnavailableError: it can't be listened on.
    """
    with contextlib.ExitStack() as stack:
        sidecars = stack.enter_context(contextlib.closing(bind(configuration.host, configuration.port)))
        admin, admin_listen = None, ""
        if configuration.admin_host:
            admin = stack.enter_context(contextlib.closing(bind(configuration.admin_host, configuration.admin_port)))
            admin_listen = format_endpoint(configuration.admin_host, admin.getsockname()[1])
        yield Listeners(
            sidecars=sidecars,
            admin=admin,
            listen=format_endpoint(configuration.host, sidecars.getsockname()[1]),
            admin_listen=admin_listen,
        )
