"""The weight of the entropy bonus: a line over the steps of a run, or what holds the entropy near a target."""

import math

from lolm_plugin.learners.ppo_core import linear

# An entropy half a nat below its target makes the weight exp(GAIN / 2) = 7 times as large, one above it a seventh.
GAIN = 4.0
HIGHEST = 0.3  # where the bonus would drown the advantages, whose standard deviation is 1


class EntropyWeight:
    """Weight of the entropy bonus in the policy's loss, 0 or more.

    Without a target it goes linearly from ``coef`` to ``coef_end``, or stays at ``coef`` if that is None. A target goes
    linearly from ``target`` to ``target_end``, in nats; the weight is then coef * exp(GAIN * (target - entropy)) with
    the mean entropy of the update before: the entropy comes down as the target does, not when the advantages say so. A
    policy that has become certain samples nothing that could show it a better action. The weight depends on one
    update alone, so that it does not swing as a sum over updates would.
    """

    def __init__(
        self, coef: float, coef_end: float | None, target: float | None, target_end: float | None, t_max: int
    ) -> None:
        self.start, self.end = coef, coef_end
        self.target_start, self.target_end = target, target_end
        self.t_max = max(1, t_max)
        self.measured: float | None = None  # entropy of the last update, in nats; a checkpoint keeps it

    def target(self, t_env: int) -> float | None:
        """Entropy to be held at this environment step, in nats; None: none."""
        if self.target_start is None:
            return None
        return linear(self.target_start, self.target_end, t_env / self.t_max)

    def coef(self, t_env: int) -> float:
        """Weight at this environment step."""
        target = self.target(t_env)
        if target is None:
            return linear(self.start, self.end, t_env / self.t_max)
        if self.measured is None:
            return self.start
        return min(self.start * math.exp(GAIN * (target - self.measured)), HIGHEST)

    def measure(self, entropy: float) -> None:
        """Take note of the mean entropy of an update, in nats."""
        self.measured = entropy
