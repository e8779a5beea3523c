"""What every critic of ours is: the host's contract, and what the learner asks beyond it."""

from typing import Any

from torch import Tensor, nn


class Critic(nn.Module):
    """One value of a step per agent; a team's value is repeated over its agents."""

    output_type = "v"
    reads: tuple[str, ...] = ("state", "obs", "avail_actions")  # what it needs of a batch

    def forward(self, batch: Any, t: int | None = None) -> Tensor:
        """The host's contract: values [batch, time, agents, 1], of all steps or of step ``t`` alone (time 1)."""
        raise NotImplementedError

    def evaluate(self, batch: Any, t_env: int, episodes: Any = slice(None)) -> tuple[Tensor, dict[str, Tensor]]:
        """Values [n, time, agents, 1] of the ``episodes`` (int64 [n]), and what the critic learns beside them.

        The losses are name -> [n, time, agents], weighted. A critic that draws noise draws the same for the same
        ``t_env``, whichever episodes are asked for.
        """
        return self({name: batch[name][episodes] for name in self.reads}), {}
