"""Check of the importance ratio before an update: the policy that learns must be the one that played.

In float32 the ratio is 1 up to rounding. In bfloat16 or with quantized weights a prompt's logits depend on which
prompts run with it, and the rollout runs other prompts together than the update. How far this moves the ratio depends
on the model and grows with the head's weights, so it is measured: the batch is evaluated again, timestep by timestep as
in the rollout. A deviation beyond this noise is a bug.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lolm_plugin.checks import check_ratio
from lolm_plugin.learners import ppo_core
from lolm_plugin.protocols import Batch

# The limit is this many times the measured noise. The second evaluation repeats the rollout's packs, so a correct
# policy deviates by about the noise. Larger: a wrong policy passes more easily. Smaller: differences between a GPU's
# kernels could end a correct run.
NOISE_FACTOR = 2.0
# A warning appears if rounding moves the ratio of 1 % of the decisions by more than this share of PPO's clip range.
# Larger: learning suffers first. Smaller: healthy runs are warned.
CLIP_SHARE = 0.5
# In float32 a warning appears at this share of the tolerance. Rounding reaches a hundredth of it.
TOLERANCE_SHARE = 0.2


@dataclass(frozen=True)
class RatioDeviations:
    """Statistics of |ratio - 1| over the decisions of a batch."""

    largest: float
    p99: float
    mean: float

    @classmethod
    def of(cls, log_probs: Tensor, behaviour_log_probs: Tensor) -> "RatioDeviations":
        """Compare log-probabilities [decisions] with those of the behaviour policy."""
        return cls(*ppo_core.ratio_deviations(log_probs, behaviour_log_probs).tolist())


class RatioCheck:
    """Compares the policy with the one that played, before the first optimiser step of each update.

    Args:
        clip: PPO's clip range, ``eps_clip``.

    Attributes:
        noise: deviations that rounding alone causes, when it was last measured; None in float32.
    """

    def __init__(self, clip: float) -> None:
        self.clip = clip
        self.noise: RatioDeviations | None = None
        self._warned = 0.0

    def check(
        self,
        log_probs: Tensor,
        behaviour_log_probs: Tensor,
        tolerance: float,
        repeat: Callable[[], Tensor] | None,
        t_env: int,
        batch: Batch | None,
    ) -> dict[str, float]:
        """Return the metrics of an update's first evaluation.

        Args:
            log_probs: of the actions, [decisions].
            behaviour_log_probs: as recorded in the rollout, [decisions].
            tolerance: largest deviation without noise.
            repeat: evaluates the batch again in the rollout's packs, [decisions]; None if the policy is exact. Called
                at the first update, and later if the last noise does not explain the deviation.
            t_env: environment steps so far, for messages.
            batch: kept by the error.

        Raises:
            NonFiniteError: the ratio is NaN, or deviates by more than tolerance and noise.
        """
        found = RatioDeviations.of(log_probs, behaviour_log_probs)
        known = self.noise is not None and self._explained(found, tolerance)
        if repeat is not None and tolerance < math.inf and not known:
            self.noise = RatioDeviations.of(log_probs, repeat())
            logging.getLogger("lolm").info(
                "Low precision: rounding changes probabilities of actions by up to %.2g, on average by %.2g.",
                self.noise.largest,
                self.noise.mean,
            )
        farthest = float(ppo_core.farthest_ratio(log_probs, behaviour_log_probs))
        check_ratio(farthest, self._limit(tolerance, "largest"), t_env, batch)
        check_ratio(1 + found.mean, self._limit(tolerance, "mean"), t_env, batch, name="the mean of ratio_epoch0")
        self._warn(found, tolerance, t_env)
        return {"ratio_epoch0": farthest, "ratio_deviation_p99": found.p99, "ratio_deviation_mean": found.mean}

    def _limit(self, tolerance: float, statistic: str) -> float:
        return tolerance + (NOISE_FACTOR * getattr(self.noise, statistic) if self.noise else 0.0)

    def _explained(self, found: RatioDeviations, tolerance: float) -> bool:
        return all(getattr(found, name) <= self._limit(tolerance, name) for name in ("largest", "mean"))

    def _warn(self, found: RatioDeviations, tolerance: float, t_env: int) -> None:
        """Warn of a large deviation, and again each time it has doubled."""
        value, limit = found.largest, TOLERANCE_SHARE * tolerance
        if self.noise:
            value, limit = found.p99, CLIP_SHARE * self.clip
        if not value > max(limit, 2 * self._warned):
            return
        self._warned = value
        if self.noise:
            text = (
                "Rounding changes the probabilities of 1 %% of the actions by %.2g or more at environment step %d, and "
                "PPO clips at %.2g: updates become noisy. Set llm.dtype=float32, or lower head_lr, because large head "
                "weights enlarge rounding errors."
            )
        else:
            text = (
                "ratio_epoch0 differs from 1 by %.2g at environment step %d; %.2g ends the run. Either logits are too "
                "large for float32 or another policy played: lower lr or head_lr; if that does not help, please report "
                "a bug."
            )
        logging.getLogger("lolm").warning(text, value, t_env, self.clip if self.noise else tolerance)
