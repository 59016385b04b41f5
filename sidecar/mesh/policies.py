"""The policy of the namespaces that this sidecar has to do with, as the CA last said. Keeps what it has on loss.

A state is compiled in slices, so that a large one doesn't keep the event loop from serving connections: until it is
compiled, what was in force stays. What is replaced is given up in slices as well: freeing 10,000 rules at once takes 20
milliseconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Final

import msgspec

from shared.model.identity.identity import Workload
from shared.model.policy.evaluate import NamespacePolicy, compile_in_steps, compile_namespace
from shared.model.policy.modes import effective_mode
from shared.model.policy.rules import NamespaceState, Rule
from shared.model.wire.messages import FromSidecar, NamespaceInstalled, Subscribe
from sidecar.mesh.answers import Answers
from sidecar.slices import run_in_slices

MAX_NAMESPACES = 1024
# Compared or freed in one step.
_AT_ONCE: Final = 64


class Policies:
    """Compiled policies by namespace; its own is always there.

    Arguments:
        state: of the own namespace, from the CA's welcome.
        workload: the sidecar's own, whose mode counts here.
        ask: sends the CA a question; raises ``UnavailableError`` without a stream.
        timeout_s: how long ``obtain`` waits.

    Attributes:
        own: of the sidecar's own namespace.
        mode: of the sidecar's own workload, as ``own`` says; each connection asks for it several times.
        generation: grows with every change of any namespace.
    """

    def __init__(
        self,
        state: NamespaceState,
        *,
        workload: Workload,
        ask: Callable[[FromSidecar], Awaitable[None]],
        timeout_s: float,
    ) -> None:
        self.own = compile_namespace(state)
        self.mode = effective_mode(state, workload)
        self.generation = 1
        self._workload = workload
        self._ask_ca = ask
        self._timeout_s = timeout_s
        self._by_name: dict[str, NamespacePolicy] = {state.namespace: self.own}
        self._answers: Answers[str, NamespacePolicy] = Answers()
        self._callbacks: list[Callable[[str], None]] = []
        # The newest state of each namespace whose compilation hasn't ended.
        self._compiling: dict[str, NamespaceState] = {}

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

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call ``callback`` with the namespace after every change."""
        self._callbacks.append(callback)

    def install(self, state: NamespaceState, *, acknowledge: Callable[[NamespaceInstalled], None]) -> None:
        """Put a namespace's state in force and acknowledge it: a small one at once, a large one in slices.

        The CA's word counts also when its version is lower: a restored CA starts again.

        Arguments:
            acknowledge: called once the state is in force; never for a namespace that is one too many here.
        """
        name = state.namespace
        if name not in self._by_name and len(self._by_name) >= MAX_NAMESPACES:
            return
        self._compiling[name] = state
        run_in_slices(self._compile(state, acknowledge))

    def _compile(self, state: NamespaceState, acknowledge: Callable[[NamespaceInstalled], None]) -> Iterator[None]:
        name = state.namespace
        if (known := self._by_name.get(name)) is not None and (yield from _is_equal_in_steps(known.state, state)):
            if self._compiling.get(name) is state:
                del self._compiling[name]
                acknowledge(NamespaceInstalled(namespace=name, version=state.version))
            known, rules = None, [*state.rules, *_rules_of_draft(state)]
            del state
            yield from _give_up_in_steps(rules)
            return
        known, steps = None, compile_in_steps(state)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                policy: NamespacePolicy = end.value
                break
            yield
            if self._compiling.get(name) is not state:
                return  # The CA has said something newer.
        del self._compiling[name]
        known = self._by_name.get(name)
        self._by_name[name] = policy
        if name == self.own.state.namespace:
            self.own, self.mode = policy, effective_mode(policy.state, self._workload)
        self.generation += 1
        self._answers.give(name, policy)
        for callback in self._callbacks:
            callback(name)
        acknowledge(NamespaceInstalled(namespace=name, version=state.version))
        del steps, policy
        if known is not None:
            rules, indexes = list(known.state.rules), [*known.denies.values(), *known.allows.values()]
            if known.draft is not None:
                rules += known.draft.state.rules
                indexes += [*known.draft.denies.values(), *known.draft.allows.values()]
            there, known = weakref.ref(known), None
            if there() is None:  # A policy that somebody still decides by isn't taken apart.
                for index in indexes:
                    yield from index.clear_in_steps()
                yield from _give_up_in_steps(rules)

    def list_in_force(self) -> list[NamespaceState]:
        """List every namespace's state that is known here."""
        return [policy.state for policy in self._by_name.values()]

    def subscriptions(self) -> list[Subscribe]:
        """Return what a new stream has to ask for again; the own namespace comes with the welcome."""
        names = {*self._by_name, *self._answers.keys()} - {self.own.state.namespace}
        return [Subscribe(namespace=name) for name in sorted(names)]


def _is_equal_in_steps(known: NamespaceState, state: NamespaceState) -> Generator[None, None, bool]:
    """Tell whether two states say the same: rules are compared some at a step."""
    if known is state:
        return True
    if _without_rules(known) != _without_rules(state):
        return False
    for before, now in ((known.rules, state.rules), (_rules_of_draft(known), _rules_of_draft(state))):
        if len(before) != len(now):
            return False
        for first in range(0, len(now), _AT_ONCE):
            if before[first : first + _AT_ONCE] != now[first : first + _AT_ONCE]:
                return False
            yield
    return True


def _without_rules(state: NamespaceState) -> NamespaceState:
    draft = None if state.draft is None else msgspec.structs.replace(state.draft, rules=())
    return msgspec.structs.replace(state, rules=(), draft=draft)


def _rules_of_draft(state: NamespaceState) -> tuple[Rule, ...]:
    return () if state.draft is None else state.draft.rules


def _give_up_in_steps(rules: list[Rule]) -> Iterator[None]:
    """Free the rules of a state that is gone, some at a step."""
    while rules:
        del rules[-_AT_ONCE:]
        yield
