"""Coefficients of the policy loss: weight of the KL to the reference, and weight of the entropy bonus."""

import math

from lolm_plugin.learners.ppo_core import linear

# If the entropy is half a nat below its target, the coefficient is exp(GAIN / 2) = 7 times as large; half a nat above,
# a seventh. With a smaller gain the entropy drifts; with a larger one the coefficient jumps between updates.
GAIN = 4.0
MAX_ENTROPY_COEF = 0.3  # above this the bonus outweighs the advantages (standard deviation 1)


def balanced_coef(policy_loss: float, kl_loss: float, eps: float, coef_max: float) -> float:
    """Compute lambda_0 = min(|L_mappo| / (L_kl + eps), lambda_max) (paper, equation 10 and its safeguards)."""
    return min(abs(policy_loss) / (kl_loss + eps), coef_max)


def annealed(initial: float, t_env: int, anneal_steps: int) -> float:
    """Decay linearly from ``initial`` at step 0 to 0 at ``anneal_steps``, then stay at 0 (paper, section 4.3)."""
    return initial * max(0.0, 1.0 - t_env / anneal_steps)


class KLCoefficient:
    """Weight lambda(t) of the KL: balanced with the policy loss at the start, then annealed linearly to 0.

    The weight is 0 until both losses are measured, at the first steps where the policies differ. The delay has no cost:
    LoRA starts at zero, so at first both policies are the same. The KL then has no gradient, and |L_mappo| of
    normalised advantages is rounding noise. With ``balance_steps=1`` the measured KL is tiny (about 1e-6), so the
    weight is almost always ``coef_max``. More steps balance the means of |L_mappo| and L_kl over that many optimiser
    steps, as equation 10 intends.
    """

    def __init__(self, enabled: bool, anneal_steps: int, eps: float, coef_max: float, balance_steps: int = 1) -> None:
        self.enabled = enabled
        self.anneal_steps = anneal_steps
        self.eps = eps
        self.coef_max = coef_max
        self.balance_steps = balance_steps
        self.initial: float | None = None  # lambda_0; saved in checkpoints, like ``measured``
        self.measured: list[tuple[float, float]] = []  # (|policy loss|, KL) of each measured optimiser step

    def active(self, t_env: int) -> bool:
        """Return True if the KL is still in the loss at this step. Otherwise the reference is not evaluated."""
        return self.enabled and t_env < self.anneal_steps

    def measure(self, policy_loss: float, kl_loss: float) -> None:
        """Set lambda_0 from the losses of the first ``balance_steps`` calls with a KL above ``eps``."""
        if self.initial is not None or kl_loss <= self.eps:
            return
        self.measured.append((abs(policy_loss), kl_loss))
        if len(self.measured) == self.balance_steps:
            policy, kl = (sum(losses) / self.balance_steps for losses in zip(*self.measured, strict=True))
            self.initial = balanced_coef(policy, kl, self.eps, self.coef_max)

    def coef(self, t_env: int) -> float:
        """Return lambda(t_env)."""
        if not self.enabled or self.initial is None:
            return 0.0
        return annealed(self.initial, t_env, self.anneal_steps)


class EntropyCoefficient:
    """Coefficient of the entropy bonus (at least 0): a linear schedule, or adapted to hold a target entropy.

    Without a target the coefficient changes linearly from ``coef`` to ``coef_end`` over ``t_max`` environment steps
    (None: constant). A target changes linearly from ``target`` to ``target_end``, in nats. The coefficient is then
    coef * exp(GAIN * (target - entropy)), with the mean entropy of the previous update, at most MAX_ENTROPY_COEF. This
    keeps the policy exploring where the advantages alone would make it deterministic. The coefficient depends on one
    update only: an integral over updates was tried and oscillates.
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
        return min(self.start * math.exp(GAIN * (target - self.measured)), MAX_ENTROPY_COEF)
