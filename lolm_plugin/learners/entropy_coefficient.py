"""The coefficient of the entropy bonus: a linear schedule, or adapted to hold the entropy near a target."""

import math

from lolm_plugin.learners.ppo_core import linear

# Half a nat below its target the coefficient is exp(GAIN / 2) = 7 times as large, half a nat above it a seventh. A
# smaller gain lets the entropy drift, a larger one makes the coefficient jump between updates.
GAIN = 4.0
HIGHEST = 0.3  # above this the bonus outweighs the advantages, whose standard deviation is 1


class EntropyCoefficient:
    """Compute the coefficient of the entropy bonus in the policy loss, at least 0.

    Without a target it goes linearly from ``coef`` to ``coef_end`` over ``t_max`` environment steps (None: constant). A
    target goes linearly from ``target`` to ``target_end``, in nats. The coefficient then is
    coef * exp(GAIN * (target - entropy)), where entropy is the mean of the update before. The policy keeps sampling
    actions that could turn out better, even where the advantages alone would make it deterministic. The coefficient
    depends on one update only: an integral over updates was tried and oscillates.
    """

    def __init__(
        self, coef: float, coef_end: float | None, target: float | None, target_end: float | None, t_max: int
    ) -> None:
        self.start, self.end = coef, coef_end
        self.target_start, self.target_end = target, target_end
        self.t_max = max(1, t_max)
        self.measured: float | None = None  # mean entropy of the last update, in nats; saved in checkpoints

    def target(self, t_env: int) -> float | None:
        """Return the target entropy at environment step ``t_env``, in nats; None without a target."""
        if self.target_start is None:
            return None
        return linear(self.target_start, self.target_end, t_env / self.t_max)

    def coef(self, t_env: int) -> float:
        """Return the coefficient at environment step ``t_env``."""
        target = self.target(t_env)
        if target is None:
            return linear(self.start, self.end, t_env / self.t_max)
        if self.measured is None:
            return self.start
        return min(self.start * math.exp(GAIN * (target - self.measured)), HIGHEST)

    def measure(self, entropy: float) -> None:
        """Record the mean entropy of an update, in nats."""
        self.measured = entropy
