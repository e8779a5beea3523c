"""Greedy or sampled actions, the draws keyed so that no generator has to be stored or restored."""

from types import SimpleNamespace

import torch
from torch import Tensor

from lolm_plugin.randomness import KeyedDraws


class KeyedActionSelector:
    """Samples while training; takes the most probable action in test mode when ``test_greedy``."""

    def __init__(self, args: SimpleNamespace) -> None:
        self.test_greedy = args.test_greedy
        self._draws = KeyedDraws(args.seed, "action")

    def select_action(
        self, probabilities: Tensor, avail_actions: Tensor, t_env: int, test_mode: bool = False
    ) -> Tensor:
        """Probabilities and masks [batch, agents, actions] -> actions [batch, agents], int64.

        A row with nothing available (a finished episode) gets action 0.
        """
        available = avail_actions > 0
        if test_mode and self.test_greedy:
            return probabilities.masked_fill(~available, -1.0).argmax(-1)
        cumulative = (probabilities * available).cumsum(-1)
        generator = self._draws.generator("test" if test_mode else "train", t_env)
        # The draw stays float64: in float32 it could round up to 1, past every action.
        draw = torch.from_numpy(generator.random(tuple(probabilities.shape[:-1])))
        threshold = draw.to(cumulative.device) * cumulative[..., -1]
        return (cumulative > threshold.unsqueeze(-1)).int().argmax(-1)
