"""How actions are picked from policies or action values. All sizes are ``[batch, agents(, actions)]``."""

from argparse import Namespace

import torch
from torch.distributions import Categorical


def linear_decay(args: Namespace, t_env: int) -> float:
    """Epsilon after ``t_env`` steps: from ``epsilon_start`` to ``epsilon_finish`` in ``epsilon_anneal_time``."""
    slope = (args.epsilon_start - args.epsilon_finish) / args.epsilon_anneal_time
    return max(args.epsilon_finish, args.epsilon_start - slope * t_env)


class SoftPoliciesSelector:
    """Draws from the policy as it is, in test mode too."""

    def __init__(self, args: Namespace) -> None:
        self.args = args

    def select_action(
        self, agent_inputs: torch.Tensor, avail_actions: torch.Tensor, t_env: int, test_mode: bool = False
    ) -> torch.Tensor:
        """Actions int64 ``[batch, agents]`` drawn from the probabilities ``agent_inputs``."""
        return Categorical(agent_inputs).sample()


class MultinomialSelector:
    """Draws an available action; in test mode the most probable one, unless ``test_greedy=False``."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.test_greedy = getattr(args, "test_greedy", True)
        self.epsilon = linear_decay(args, 0)

    def select_action(
        self, agent_inputs: torch.Tensor, avail_actions: torch.Tensor, t_env: int, test_mode: bool = False
    ) -> torch.Tensor:
        """Actions int64 ``[batch, agents]`` from the probabilities ``agent_inputs``, which need not be masked."""
        self.epsilon = linear_decay(self.args, t_env)
        masked = agent_inputs.masked_fill(avail_actions == 0, 0.0)
        if test_mode and self.test_greedy:
            return masked.argmax(dim=-1)
        return Categorical(masked).sample()


class EpsilonGreedySelector:
    """The available action of the highest value; with probability epsilon any available one."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.epsilon = linear_decay(args, 0)

    def select_action(
        self, agent_inputs: torch.Tensor, avail_actions: torch.Tensor, t_env: int, test_mode: bool = False
    ) -> torch.Tensor:
        """Actions int64 ``[batch, agents]`` from the action values ``agent_inputs``."""
        self.epsilon = self.args.evaluation_epsilon if test_mode else linear_decay(self.args, t_env)
        greedy = agent_inputs.masked_fill(avail_actions == 0, -torch.inf).argmax(dim=-1)
        anything = Categorical(avail_actions.float()).sample()
        explore = torch.rand(greedy.shape, device=greedy.device) < self.epsilon
        return torch.where(explore, anything, greedy)
