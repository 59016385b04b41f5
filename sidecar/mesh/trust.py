"""The trust bundle in force here. Pure state: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shared.model.errors import ProtocolError
from shared.model.trust.bundle import TrustBundle
from shared.model.trust.certificate import BundleVerifier


class Trust:
    """Holds the bundle and its verifier; both change together.

    Arguments:
        bundle: the first one, from the CA's welcome.

    Attributes:
        bundle: its sequence grows with every change here, also when the CA's begins anew: whoever remembers what was
            verified compares it.
        sequence: the CA's own number of it, which is acknowledged.

    Raises:
        ProtocolError: a certificate in it can't be parsed.
    """

    def __init__(self, bundle: TrustBundle) -> None:
        self.verifier = make_verifier(bundle)
        self.bundle = bundle
        self.sequence = bundle.sequence
        self._callbacks: list[Callable[[], None]] = []

    @property
    def roots(self) -> tuple[bytes, ...]:
        """DER of the roots in force."""
        return self.bundle.roots

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
        if bundle.sequence <= self.sequence:
            return False
        self._replace(bundle)
        return True

    def begin_again(self, bundle: TrustBundle) -> None:
        """Put the bundle of a new enrolment in force, whatever its sequence: the CA may have lost its store.

        Raises:
            ProtocolError: it belongs to another trust domain, or a certificate in it can't be parsed.
        """
        if bundle.trust_domain != self.bundle.trust_domain:
            raise ProtocolError("the CA sent a trust bundle of another trust domain")
        if msgspec.structs.replace(self.bundle, sequence=self.sequence) != bundle:
            self._replace(bundle)

    def _replace(self, bundle: TrustBundle) -> None:
        here = msgspec.structs.replace(bundle, sequence=max(bundle.sequence, self.bundle.sequence + 1))
        self.verifier = make_verifier(here)
        self.bundle = here
        self.sequence = bundle.sequence
        for callback in self._callbacks:
            callback()


def make_verifier(bundle: TrustBundle) -> BundleVerifier:
    """Make a bundle ready to verify chains.

    Raises:
        ProtocolError: a certificate in it can't be parsed.
    """
    try:
        return BundleVerifier(bundle)
    except ValueError as error:
        raise ProtocolError(f"the trust bundle holds a certificate that can't be parsed: {error}") from error
