"""States of prompts above the frozen layers, kept from play until the update that learns from them is over."""

from collections.abc import Sequence

from torch import Tensor


class FrozenStates:
    """Keeps the frozen layers' states by prompt, so that each prompt of a batch runs through these layers once.

    Frozen layers never change, so states stay right for as long as they are kept. They are dropped after each update
    all the same: a resumed run starts without them, and must compute the same last digits as one that was not stopped.
    """

    def __init__(self) -> None:
        self._states: dict[tuple[tuple[int, ...], bytes], Tensor] = {}
        self.nbytes = 0

    def find(self, prefix: tuple[int, ...], ids: Tensor) -> Tensor | None:
        """The states [tokens, hidden] of the prompt ``prefix`` + ids int64 [tokens], None where they are not kept."""
        return self._states.get(_key(prefix, ids))

    def keep(self, prefix: tuple[int, ...], rows: Sequence[Tensor], states: Sequence[Tensor], limit: float) -> bool:
        """Keep the states of some rows if all that is kept then fits into ``limit`` bytes; return whether it does."""
        more = sum(of_row.nbytes for of_row in states)
        if self.nbytes + more > limit:
            return False
        for ids, of_row in zip(rows, states, strict=True):
            self._states[_key(prefix, ids)] = of_row
        self.nbytes += more
        return True

    def drop(self) -> None:
        """Free all states."""
        self._states.clear()
        self.nbytes = 0


def _key(prefix: tuple[int, ...], ids: Tensor) -> tuple[tuple[int, ...], bytes]:
    return prefix, ids.numpy().tobytes()
