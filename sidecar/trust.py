"""The trust bundle in force here. Pure state: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable

from shared.model.certificate import BundleVerifier
from shared.model.errors import ProtocolError
from shared.model.trust import TrustBundle


class Trust:
    """Holds the bundle and its verifier; both change together.

    Arguments:
        bundle: the first one, from the CA's welcome.

    Raises:
        ProtocolError: a certificate in it can't be parsed.
    """

    def __init__(self, bundle: TrustBundle) -> None:
        self.verifier = _make_verifier(bundle)
        self.bundle = bundle
        self._callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after every change."""
        self._callbacks.append(callback)

    def install(self, bundle: TrustBundle) -> bool:
        """Put a newer bundle in force; return whether it did. An older or equal one changes nothing.

        Raises:
            ProtocolError: it belongs to another trust domain, or a certificate in it can't be parsed.
        """
        if bundle.trust_domain != self.bundle.trust_domain:
            raise ProtocolError("the CA sent a trust bundle of another trust domain")
        if bundle.sequence <= self.bundle.sequence:
            return False
        self.verifier = _make_verifier(bundle)
        self.bundle = bundle
        for callback in self._callbacks:
            callback()
        return True


def _make_verifier(bundle: TrustBundle) -> BundleVerifier:
    try:
        return BundleVerifier(bundle)
    except ValueError as error:
        raise ProtocolError(f"the trust bundle holds a certificate that can't be parsed: {error}") from error
