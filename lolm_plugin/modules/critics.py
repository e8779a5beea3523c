"""Critics: from a batch to one value per agent and step, and the normaliser of these values."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lolm_plugin import registry
from lolm_plugin.errors import ConfigError
from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.layers import RELU_GAIN, linear
from lolm_plugin.modules.trunks.trunk import build_trunk
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.battle import Layouts
from lolm_plugin.observations.checks import check_sizes
from lolm_plugin.observations.entity_tokens import CriticTokenizer
from lolm_plugin.protocols import Fields
from lolm_plugin.randomness import keyed_generator, keyed_seeds


class Critic(nn.Module):
    """Base class: one value of a step per agent; a team's value is repeated over its agents."""

    reads: tuple[str, ...] = ("state", "obs", "avail_actions")  # the fields of a batch that it reads

    def forward(self, batch: Fields) -> Tensor:
        """Compute values [batch, time, agents, 1], without noise."""
        raise NotImplementedError

    def evaluate(self, batch: Fields, t_env: int, episodes: Any = slice(None)) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute values [n, time, agents, 1] of the ``episodes`` int64 [n], and the critic's auxiliary losses.

        The losses are name -> [n, time, agents], weighted. A critic that draws noise draws the same for the same
        ``t_env``, whichever episodes are evaluated.
        """
        return self({name: batch[name][episodes] for name in self.reads}), {}


def build_critic(scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> Critic:
    """Build the critic that ``critic_type`` names. Raises ConfigError for one that is not ours."""
    critics = registry.ENTRIES["critic"]
    if args.critic_type not in critics:
        raise ConfigError(
            f"critic_type={args.critic_type} is tied to one map's sizes or unknown; "
            f"set it to one of: {', '.join(critics)}."
        )
    return registry.load(critics[args.critic_type])(scheme, args)


class EntityCritic(Critic):
    """The state as each agent sees it -> entity tokens -> trunk -> mean over units -> V. Serves every map.

    ``args.critic_type`` names the trunk, as in ``updet_critic``.
    """

    def __init__(self, scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> None:
        super().__init__()
        self.seed = args.seed
        self.tokenizer = CriticTokenizer(_layouts(scheme, args), args.entity)
        with _seeded(args):
            self.trunk = build_trunk(args.critic_type.removesuffix("_critic"), self.tokenizer.width, args)
            self.value = linear(self.trunk.width, 1, gain=1.0)

    def forward(self, batch: Fields) -> Tensor:
        return self._values(*(batch[name] for name in self.reads))[0]

    def evaluate(self, batch: Fields, t_env: int, episodes: Any = slice(None)) -> tuple[Tensor, dict[str, Tensor]]:
        noise = None
        if self.trunk.noise_width:
            generator = keyed_generator(self.seed, "critic_noise", t_env)
            noise = self.trunk.noise(batch["obs"].shape[:3], generator).to(batch["obs"].device)[episodes]
        state, obs, available = (batch[name][episodes] for name in self.reads)
        return self._values(state, obs, available, noise)

    def _values(
        self, state: Tensor, obs: Tensor, available: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute values and losses; state [batch, time, state_size], the others [batch, time, agents, ...]."""
        tokens = self.tokenizer(state.transpose(0, 1), obs.transpose(0, 1), available.transpose(0, 1))
        memory = state.new_zeros(len(obs), obs.shape[2], self.trunk.memory_width)
        features = self.trunk.unroll(tokens, memory, None if noise is None else noise.transpose(0, 1))
        weight = features.counted.to(features.units.dtype)
        total = (weight.unsqueeze(-2) @ features.units).squeeze(-2)
        mean = total / weight.sum(-1, keepdim=True).clamp(min=1)  # 0 for a dead agent, which has no unit
        losses = {name: loss.transpose(0, 1) for name, loss in features.losses.items()}
        return self.value(mean).transpose(0, 1), losses


class MLPCritic(Critic):
    """MAPPO's critic: state, own observation and agent id, flat -> two hidden layers -> V. Fits one map only.

    Inputs and hidden layers are normalised as in MAPPO's released code.
    """

    reads = ("state", "obs")

    def __init__(self, scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> None:
        super().__init__()
        self.n_agents = args.n_agents
        width, inputs = args.critic["width"], scheme["state"]["vshape"] + scheme["obs"]["vshape"] + args.n_agents
        with _seeded(args):
            self.net = nn.Sequential(
                nn.LayerNorm(inputs),
                linear(inputs, width, RELU_GAIN),
                nn.ReLU(),
                nn.LayerNorm(width),
                linear(width, width, RELU_GAIN),
                nn.ReLU(),
                nn.LayerNorm(width),
                linear(width, 1, gain=1.0),
            )

    def forward(self, batch: Fields) -> Tensor:
        state, obs = batch["state"], batch["obs"]
        state = state.unsqueeze(2).expand(-1, -1, self.n_agents, -1)
        agent = torch.eye(self.n_agents, device=obs.device).expand(*obs.shape[:2], -1, -1)
        return self.net(torch.cat([state, obs, agent], dim=-1))


class TransformerCritic(Critic):
    """State as a set of entities -> linear -> Transformer encoder -> mean over the living -> V (paper, section 4.4).

    It is one value of the whole team. No parameter depends on how many units there are, so that a critic moves between
    maps.
    """

    reads = ("state",)

    def __init__(self, scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> None:
        super().__init__()
        layout = _layouts(scheme, args).state
        self.entities = layout.entities
        self.n_agents = args.n_agents
        shape: Mapping[str, Any] = args.critic
        with _seeded(args):
            self.embed = nn.Linear(layout.width, shape["width"])
            layer = nn.TransformerEncoderLayer(
                shape["width"],
                shape["heads"],
                4 * shape["width"],
                dropout=0.0,
                batch_first=True,
                norm_first=True,
            )
            self.encoder = nn.TransformerEncoder(layer, shape["layers"], enable_nested_tensor=False)
            self.value = nn.Linear(shape["width"], 1)

    def forward(self, batch: Fields) -> Tensor:
        return self.values(batch["state"])[..., None, None].expand(-1, -1, self.n_agents, 1)

    def values(self, state: Tensor) -> Tensor:
        """Compute the values [...] of states [..., state_size]."""
        tokens, living = self.entities(state.flatten(0, -2))
        # Padding, where no one lives, is a large part of a batch, and attention over nothing would be NaN.
        some = living.any(1).nonzero().squeeze(1)
        if not len(some):
            return self.value.bias.expand(state.shape[:-1])
        living = living[some]
        encoded = self.encoder(self.embed(tokens[some]), src_key_padding_mask=~living)
        weight = living.unsqueeze(-1).to(encoded.dtype)
        mean = (encoded * weight).sum(1) / weight.sum(1)
        means = mean.new_zeros(len(tokens), mean.shape[-1]).index_put((some,), mean)
        return self.value(means).squeeze(-1).unflatten(0, state.shape[:-1])


def _layouts(scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> Layouts:
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
    check_sizes(layouts, scheme, args.n_actions)
    return layouts


def _seeded(args: SimpleNamespace) -> Any:
    return seeded(int(keyed_seeds(args.seed, "critic", count=1)[0]))


class ValueNormaliser(nn.Module):
    """Keep the critic's targets near mean 0 and variance 1, whatever the map's returns are.

    Debiased exponential moving mean and variance of returns (as in MAPPO, Yu et al. 2022).
    """

    mean: Tensor
    square: Tensor
    debias: Tensor

    def __init__(self, beta: float = 0.99999, min_variance: float = 1e-2) -> None:
        super().__init__()
        self.beta = beta
        self.min_variance = min_variance
        for name in ("mean", "square", "debias"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def update(self, returns: Tensor, mask: Tensor) -> None:
        """Add returns to the statistics where ``mask`` is 1; both have the same shape."""
        counted = returns[mask > 0].double()
        if counted.numel():
            self.mean.lerp_(counted.mean(), 1 - self.beta)
            self.square.lerp_((counted**2).mean(), 1 - self.beta)
            self.debias.lerp_(torch.ones_like(self.debias), 1 - self.beta)

    @property
    def deviation(self) -> float:
        """Return the standard deviation of all returns so far, in the environment's units; 1 before the first."""
        return float(self._moments()[1])

    def normalise(self, returns: Tensor) -> Tensor:
        """Convert returns to the critic's units."""
        mean, std = self._moments()
        return ((returns - mean) / std).to(returns.dtype)

    def denormalise(self, values: Tensor) -> Tensor:
        """Convert values in the critic's units to returns."""
        mean, std = self._moments()
        return (values * std + mean).to(values.dtype)

    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.debias == 0:  # no return yet
            return torch.zeros_like(self.mean), torch.ones_like(self.mean)
        mean = self.mean / self.debias
        variance = (self.square / self.debias - mean**2).clamp(min=self.min_variance)
        return mean, variance.sqrt()
