"""Greedy or sampled actions. Random draws are keyed, so no generator state has to be saved."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from lolm_plugin.randomness import KeyedDraws, keyed_generator


class KeyedActionSelector:
    """Action selector: samples in training; in a test greedy, or sampled with ``test_greedy=False``.

    ``greedy_rule`` defines the greedy action:

    - ``argmax``: the action with the largest probability; of equal ones the first, as in EPyMARL.
    - ``grouped``: the target actions (attacks or heals) compete with the base actions as one action, with the sum of
      their probabilities. If this sum is the largest, the most probable target is taken. Of exactly equal targets one
      is drawn uniformly: with ``head.attack_keys=shared`` all are equal.

    Draws of a test are keyed by the episode's number in the test and the timestep. So they do not depend on how many
    episodes are played at once, and they do not change the draws of training.
    """

    def __init__(self, args: SimpleNamespace, n_base_actions: int | None = None) -> None:
        """Read ``seed``, ``test_greedy`` and ``greedy_rule`` from ``args``.

        ``n_base_actions`` is the index of the first target action; None: there are no target actions.
        """
        self.seed = args.seed
        self.test_greedy = args.test_greedy
        self.greedy_rule = getattr(args, "greedy_rule", "argmax")  # algorithms of EPyMARL lack this key
        self.n_base_actions = n_base_actions
        self._draws = KeyedDraws(args.seed, "action")

    def select_action(
        self,
        probabilities: Tensor,
        avail_actions: Tensor,
        t_env: int,
        test_mode: bool = False,
        episodes: Sequence[int] | None = None,
        t_ep: int = 0,
    ) -> Tensor:
        """Select actions [batch, agents], int64, from probabilities and masks [batch, agents, actions].

        An agent without an available action (its episode is over) gets action 0. ``episodes`` [batch] are the episodes'
        numbers in the test (default 0, 1, ...) and ``t_ep`` is the timestep. Both are used in test mode only.
        """
        available = avail_actions > 0
        if not test_mode:
            # float64: in float32 a draw could round up to 1, which selects no action.
            draw = torch.from_numpy(self._draws.generator("train", t_env).random(tuple(probabilities.shape[:-1])))
            return _sampled(probabilities * available, draw)
        key = (t_env, range(len(probabilities)) if episodes is None else episodes, t_ep)
        if not self.test_greedy:
            return _sampled(probabilities * available, self._test_draw("test action", available.sum(-1) > 1, *key))
        masked = probabilities.masked_fill(~available, -1.0)
        n_base = self.n_base_actions
        if self.greedy_rule == "argmax" or n_base is None or n_base == masked.shape[-1]:
            return masked.argmax(-1)
        base, targets = masked[..., :n_base], masked[..., n_base:]
        wins = targets.clamp(min=0).sum(-1) > base.clamp(min=0).amax(-1)
        best = targets == targets.amax(-1, keepdim=True)
        count = best.sum(-1)
        draw = self._test_draw("greedy target", wins & (count > 1), *key).to(count.device)
        drawn = (draw * count).long()  # 0 .. count - 1
        target = (best.cumsum(-1) > drawn.unsqueeze(-1)).int().argmax(-1)
        return torch.where(wins, n_base + target, base.argmax(-1))

    def _test_draw(self, purpose: str, deciding: Tensor, t_env: int, episodes: Sequence[int], t_ep: int) -> Tensor:
        """Draw uniform numbers, float64 [batch, agents]; 0 for episodes where ``deciding`` [batch, agents] is False."""
        draw = torch.zeros(deciding.shape, dtype=torch.float64)
        for i in deciding.any(-1).nonzero().flatten().tolist():
            generator = keyed_generator(self.seed, purpose, t_env, episodes[i], t_ep)
            draw[i] = torch.from_numpy(generator.random(deciding.shape[1]))
        return draw


def _sampled(probabilities: Tensor, draw: Tensor) -> Tensor:
    """Sample by the inverse CDF: probabilities [..., actions], draws [...] in [0, 1) -> actions [...]."""
    cumulative = probabilities.cumsum(-1)
    threshold = draw.to(cumulative.device) * cumulative[..., -1]
    return (cumulative > threshold.unsqueeze(-1)).int().argmax(-1)
