"""Greedy or sampled actions, the draws keyed so that no generator has to be stored or restored."""

from types import SimpleNamespace

import torch
from torch import Tensor

from lolm_plugin.randomness import keyed_generator


class KeyedActionSelector:
    """Samples while training; takes the most probable action in test mode when ``test_greedy``.

    The n-th draw at a value of ``t_env`` comes from ``(seed, mode, t_env, n)``. ``t_env`` moves on after
    every training episode batch, so a resumed run draws what the uninterrupted one would have drawn.
    """

    def __init__(self, args: SimpleNamespace) -> None:
        self.seed = args.seed
        self.test_greedy = args.test_greedy
        self._drawn: dict[str, tuple[int, int]] = {}  # mode -> (t_env, draws so far)

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
        draw = self._uniform(tuple(probabilities.shape[:-1]), t_env, "test" if test_mode else "train")
        # The draw stays float64: in float32 it could round up to 1, past every action.
        threshold = draw.to(cumulative.device) * cumulative[..., -1]
        return (cumulative > threshold.unsqueeze(-1)).int().argmax(-1)

    def _uniform(self, shape: tuple[int, ...], t_env: int, mode: str) -> Tensor:
        at, draws = self._drawn.get(mode, (t_env, 0))
        draws = draws if at == t_env else 0
        self._drawn[mode] = (t_env, draws + 1)
        generator = keyed_generator(self.seed, "action", mode, t_env, draws)
        return torch.from_numpy(generator.random(shape))
