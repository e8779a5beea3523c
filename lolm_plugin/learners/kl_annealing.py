"""The weight of the KL term: balanced with the policy loss at the start, then linearly down to zero."""


def balanced_coef(policy_loss: float, kl_loss: float, eps: float, coef_max: float) -> float:
    """lambda_0 = min(|L_mappo| / (L_kl + eps), lambda_max) (paper, equation 10 and its safeguards)."""
    return min(abs(policy_loss) / (kl_loss + eps), coef_max)


def annealed(initial: float, t_env: int, anneal_steps: int) -> float:
    """``initial`` at step 0, exactly 0 from ``anneal_steps`` on (paper, section 4.3)."""
    return initial * max(0.0, 1.0 - t_env / anneal_steps)


class KLAnnealing:
    """lambda(t). Unknown, and 0, until the two losses are measured at the first steps where the policies differ.

    Waiting costs nothing: LoRA starts at zero, so at first the two policies are the same, the KL has no
    gradient, and |L_mappo| of normalised advantages is rounding noise. With ``balance_steps=1`` the KL is still tiny
    when it is measured (about 1e-6), so the weight is almost always ``coef_max``. More steps balance the means of
    |L_mappo| and L_kl over that many optimiser steps, as equation 10 intends.
    """

    def __init__(self, enabled: bool, anneal_steps: int, eps: float, coef_max: float, balance_steps: int = 1) -> None:
        self.enabled = enabled
        self.anneal_steps = anneal_steps
        self.eps = eps
        self.coef_max = coef_max
        self.balance_steps = balance_steps
        self.initial: float | None = None
        self.measured: list[tuple[float, float]] = []  # |policy loss| and KL of each step so far

    def active(self, t_env: int) -> bool:
        """Whether the KL still counts at this step, so that the reference has to be evaluated."""
        return self.enabled and t_env < self.anneal_steps

    def measure(self, policy_loss: float, kl_loss: float) -> None:
        """Set lambda_0 from the losses of the first ``balance_steps`` calls; later calls change nothing."""
        if self.initial is not None:
            return
        self.measured.append((abs(policy_loss), kl_loss))
        if len(self.measured) == self.balance_steps:
            policy, kl = (sum(losses) / self.balance_steps for losses in zip(*self.measured, strict=True))
            self.initial = balanced_coef(policy, kl, self.eps, self.coef_max)

    def coef(self, t_env: int) -> float:
        """lambda(t_env)."""
        if not self.enabled or self.initial is None:
            return 0.0
        return annealed(self.initial, t_env, self.anneal_steps)
