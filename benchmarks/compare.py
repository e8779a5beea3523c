"""How far the engine's numbers are from the plain port's."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.engine import KL_COEF, Engine
from benchmarks.plain_port import PlainPort
from benchmarks.setting import Setting

LOGITS = 1e-4  # largest difference allowed in float32
GRADIENTS = 1e-3  # the same, relative
FLOOR = 1e-3  # of the longest gradient: below it a gradient is compared with the floor, not with itself


class Mismatch(Exception):
    """The two sides do not compute the same, so that their times mean nothing."""


class Difference(NamedTuple):
    """Largest absolute differences, and the gradients' relative one; None where nothing was compared."""

    logits: float
    gradients: float | None = None
    relative: float | None = None

    @property
    def largest(self) -> float:
        """Of logits and gradients, absolute."""
        return max(self.logits, self.gradients or 0.0)

    def check(self, setting: Setting, name: str) -> "Difference":
        """Itself; Mismatch where float32 allows no such difference."""
        if setting.dtype == "float32" and not (self.logits <= LOGITS and (self.relative or 0.0) <= GRADIENTS):
            raise Mismatch(f"{name}: engine and plain port do not compute the same ({self}); the benchmark ends here.")
        return self


def rollouts(engine: Engine, port: PlainPort, batch: object) -> Difference:
    """Of the log-probabilities that actions are drawn from."""
    return Difference(farthest(engine.log_probs(batch), port.log_probs(batch)))


def learners(engine: Engine, port: PlainPort, batch: object, graph_tokens: int | None) -> Difference:
    """Of the logits that are learned from and of what an update leaves as gradients.

    One epoch of the plain port is enough: its learning rate is 0, so that all its epochs are the same.
    """
    logits = farthest(engine.logits(batch), port.logits(batch))
    advantages = engine.advantages(batch)
    engine.play(batch)  # the learner compares itself with what was played
    engine.update(batch)
    port.update(batch, advantages, KL_COEF, graph_tokens, epochs=1)
    ours, theirs = engine.gradients(), port.gradients()
    assert ours.keys() <= theirs.keys(), "the engine trains something that the plain port does not have"
    return Difference(logits, max(farthest(ours[name], theirs[name]) for name in ours), relative(ours, theirs))


def farthest(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference of two numbers; equal infinities do not differ."""
    assert first.shape == second.shape, (first.shape, second.shape)
    return float(torch.where(first == second, 0.0, (first - second).abs()).max()) if first.numel() else 0.0


def relative(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest length of a tensor's difference by its own length."""
    floor = FLOOR * max(float(theirs[name].norm()) for name in ours)
    return max(float((ours[name] - theirs[name]).norm()) / max(floor, float(theirs[name].norm())) for name in ours)
