"""The weight of the entropy bonus: a line over the steps of a run, or whatever holds the entropy at a target."""

import math

from lolm_plugin.learners.ppo_core import linear

# After an update whose entropy is 1 nat below its target the weight is exp(RATE) = 1.65 times as large.
RATE = 0.5
LOWEST, HIGHEST = 1e-4, 1.0


class EntropyWeight:
    """Weight of the entropy bonus in the policy's loss, and 0 or more.

    Without a target it goes linearly from ``coef`` to ``coef_end``, or stays at ``coef`` if that is None. A target goes
    linearly from ``target`` to ``target_end``, in nats; the weight then starts at ``coef`` and is multiplied after each
    update by exp(RATE * (target - entropy)), within bounds: the entropy comes down as the target does, not when the
    advantages say so. A policy that has become certain samples nothing that could show it a better action.
    """

    def __init__(
        self, coef: float, coef_end: float | None, target: float | None, target_end: float | None, t_max: int
    ) -> None:
        self.start, self.end = coef, coef_end
        self.target_start, self.target_end = target, target_end
        self.t_max = max(1, t_max)
        self.adapted = coef  # what a checkpoint keeps

    def target(self, t_env: int) -> float | None:
        """Entropy to be held at this environment step, in nats; None: none."""
        if self.target_start is None:
            return None
        return linear(self.target_start, self.target_end, t_env / self.t_max)

    def coef(self, t_env: int) -> float:
        """Weight at this environment step."""
        if self.target_start is None:
            return linear(self.start, self.end, t_env / self.t_max)
        return self.adapted

    def measure(self, entropy: float, t_env: int) -> None:
        """Adapt the weight to the mean entropy of an update, in nats; without a target nothing changes."""
        target = self.target(t_env)
        if target is not None:
            self.adapted = min(max(self.adapted * math.exp(RATE * (target - entropy)), LOWEST), HIGHEST)
