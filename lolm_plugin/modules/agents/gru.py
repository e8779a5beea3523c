"""The recurrent policy of MAPPO (Yu et al. 2022) for one map: observation -> linear -> ReLU -> GRU -> linear.

As in its released code, the inputs and the outputs of both layers are normalised.
"""

from types import SimpleNamespace

from torch import Tensor, nn

from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.agents.policy import Policy, PolicyOutput
from lolm_plugin.modules.layers import HEAD_GAIN, RELU_GAIN, linear, orthogonal
from lolm_plugin.observations.description import Description
from lolm_plugin.randomness import keyed_seeds


class GRUAgent(Policy):
    """Recurrent policy. It reads the observation and, if the host adds them, last action and agent id (one-hot)."""

    def __init__(self, layout: Description, args: SimpleNamespace) -> None:
        super().__init__()
        self.input_size = layout.size + layout.n_actions * args.obs_last_action + layout.n_agents * args.obs_agent_id
        self.hidden_width = args.gru["width"]
        with seeded(int(keyed_seeds(args.seed, "actor", count=1)[0])):
            self.embed = nn.Sequential(
                nn.LayerNorm(self.input_size),
                linear(self.input_size, self.hidden_width, RELU_GAIN),
                nn.ReLU(),
                nn.LayerNorm(self.hidden_width),
            )
            self.gru = orthogonal(nn.GRU(self.hidden_width, self.hidden_width))
            self.norm = nn.LayerNorm(self.hidden_width)
            self.actions = linear(self.hidden_width, layout.n_actions, HEAD_GAIN)

    def evaluate(
        self,
        inputs: Tensor,
        hidden: Tensor,
        agents: Tensor,
        noise: Tensor | None = None,
        available: Tensor | None = None,
    ) -> PolicyOutput:
        output = self.unroll(inputs.unsqueeze(0), hidden, agents)
        return PolicyOutput(output.logits[0], output.hidden[0])

    def unroll(self, inputs: Tensor, hidden: Tensor, agents: Tensor, noise: Tensor | None = None) -> PolicyOutput:
        steps, *leading = inputs.shape[:-1]
        embedded = self.embed(inputs).reshape(steps, -1, self.hidden_width)
        # contiguous: cuDNN refuses the expanded view of an initial state.
        after, _ = self.gru(embedded, hidden.reshape(1, -1, self.hidden_width).contiguous())
        after = after.view(steps, *leading, self.hidden_width)
        return PolicyOutput(self.actions(self.norm(after)), after)
