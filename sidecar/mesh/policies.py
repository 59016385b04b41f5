"""The policy of the namespaces that this sidecar has to do with, as the CA last said. Keeps what it has on loss."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.rules import NamespaceState
from shared.model.wire.messages import FromSidecar, NamespaceInstalled, Subscribe
from sidecar.mesh.answers import Answers

MAX_NAMESPACES = 1024


class Policies:
    """Compiled policies by namespace; its own is always there.

    Arguments:
        state: of the own namespace, from the CA's welcome.
        ask: sends the CA a question; raises ``UnavailableError`` without a stream.
        timeout_s: how long ``obtain`` waits.

    Attributes:
        own: of the sidecar's own namespace.
        generation: grows with every change of any namespace.
    """

    def __init__(
        self, state: NamespaceState, *, ask: Callable[[FromSidecar], Awaitable[None]], timeout_s: float
    ) -> None:
        self.own = compile_namespace(state)
        self.generation = 1
        self._ask_ca = ask
        self._timeout_s = timeout_s
        self._by_name: dict[str, NamespacePolicy] = {state.namespace: self.own}
        self._answers: Answers[str, NamespacePolicy] = Answers()
        self._callbacks: list[Callable[[], None]] = []

    def get(self, namespace: str) -> NamespacePolicy | None:
        """Return what is in force here, or None when it was never asked for."""
        return self._by_name.get(namespace)

    async def obtain(self, namespace: str) -> NamespacePolicy:
        """Return the namespace's policy, subscribing to it first where needed.

        Raises:
            UnavailableError: the CA didn't answer in time, or too many namespaces are known already.
        """
        if (policy := self._by_name.get(namespace)) is not None:
            return policy
        return await self._answers.wait(
            namespace, lambda: self._ask_ca(Subscribe(namespace=namespace)), timeout_s=self._timeout_s
        )

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after every change."""
        self._callbacks.append(callback)

    def install(self, state: NamespaceState) -> NamespaceInstalled | None:
        """Put a namespace's state in force and return the acknowledgement; None when it isn't taken.

        The CA's word counts also when its version is lower: a restored CA starts again.
        """
        name = state.namespace
        known = self._by_name.get(name)
        if known is None and len(self._by_name) >= MAX_NAMESPACES:
            return None
        if known is None or known.state != state:
            policy = compile_namespace(state)
            self._by_name[name] = policy
            if name == self.own.state.namespace:
                self.own = policy
            self.generation += 1
            self._answers.give(name, policy)
            for callback in self._callbacks:
                callback()
        return NamespaceInstalled(namespace=name, version=state.version)

    def subscriptions(self) -> list[Subscribe]:
        """Return what a new stream has to ask for again; the own namespace comes with the welcome."""
        names = {*self._by_name, *self._answers.keys()} - {self.own.state.namespace}
        return [Subscribe(namespace=name) for name in sorted(names)]
