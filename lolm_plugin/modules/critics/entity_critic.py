"""The critic of the entity networks: the state as each agent sees it -> tokens -> trunk -> mean over units -> V."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.critics.critic import Critic
from lolm_plugin.modules.initialisation import linear
from lolm_plugin.modules.trunks.trunk import build_trunk
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_sizes
from lolm_plugin.observations.entity_tokens import CriticTokenizer
from lolm_plugin.randomness import keyed_generator, keyed_seeds


class EntityCritic(Critic):
    """The trunk that ``args.critic_type`` names, as in ``updet_critic``. The same weights serve every map."""

    def __init__(self, scheme: Mapping[str, Mapping], args: SimpleNamespace) -> None:
        super().__init__()
        layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        check_sizes(layouts, scheme, args.n_actions)
        self.seed = args.seed
        self.tokenizer = CriticTokenizer(layouts, args.entity)
        with seeded(int(keyed_seeds(args.seed, "critic", count=1)[0])):
            self.trunk = build_trunk(args.critic_type.removesuffix("_critic"), self.tokenizer.width, args)
            self.value = linear(self.trunk.width, 1, gain=1.0)

    def forward(self, batch: Any, t: int | None = None) -> Tensor:
        """Values [batch, time, agents, 1] without noise."""
        if t is None:
            return self._values(*(batch[name] for name in self.reads))[0]
        start = 0 if self.trunk.memory_width else t
        return self._values(*(batch[name][:, start : t + 1] for name in self.reads))[0][:, -1:]

    def evaluate(self, batch: Any, t_env: int, episodes: Any = slice(None)) -> tuple[Tensor, dict[str, Tensor]]:
        noise = None
        if self.trunk.noise_width:
            generator = keyed_generator(self.seed, "critic_noise", t_env)
            noise = self.trunk.noise(batch["obs"].shape[:3], generator).to(batch["obs"].device)[episodes]
        return self._values(*(batch[name][episodes] for name in self.reads), noise)

    def _values(
        self, state: Tensor, obs: Tensor, available: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """state [batch, time, state_size], the others [batch, time, agents, ...]; see ``evaluate``."""
        tokens = self.tokenizer(state.transpose(0, 1), obs.transpose(0, 1), available.transpose(0, 1))
        memory = state.new_zeros(len(obs), obs.shape[2], self.trunk.memory_width)
        features = self.trunk.unroll(tokens, memory, None if noise is None else noise.transpose(0, 1))
        weight = features.counted.to(features.rows.dtype)
        total = (weight.unsqueeze(-2) @ features.rows).squeeze(-2)
        mean = total / weight.sum(-1, keepdim=True).clamp(min=1)  # of a dead agent, who has no unit, 0
        losses = {name: loss.transpose(0, 1) for name, loss in features.losses.items()}
        return self.value(mean).transpose(0, 1), losses
