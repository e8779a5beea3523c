"""Critics, which compute one value per agent and step of a batch, and the normaliser of these values."""

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
from lolm_plugin.observations.entity_features import CriticFeatures
from lolm_plugin.protocols import Fields
from lolm_plugin.randomness import keyed_generator, keyed_seeds


class Critic(nn.Module):
    """Base class of critics: one value per step and agent. A team's value is repeated over its agents.

    To add a critic, subclass this class, register it in ``registry.ENTRIES["critic"]`` and set ``critic_type``. It is
    built as ``Class(scheme, args)``: the fields of the batch, as in EPyMARL, and the configuration. This one computes a
    linear value of the state::

        class LinearCritic(Critic):
            reads = ("state",)

            def __init__(self, scheme, args):
                super().__init__()
                self.n_agents = args.n_agents
                self.value = nn.Linear(scheme["state"]["vshape"], 1)

            def forward(self, batch):
                return self.value(batch["state"]).unsqueeze(2).expand(-1, -1, self.n_agents, 1)

    For an entity network no class is needed: a trunk NAME of ``registry.TRUNKS`` also gives the critic NAME_critic.
    """

    reads: tuple[str, ...] = ("state", "obs", "avail_actions")  # names of the batch fields that the critic reads

    def forward(self, batch: Fields) -> Tensor:
        """Compute the values of whole episodes, without noise.

        Args:
            batch: tensors by name, [batch, time, ...] each; at least those in ``reads``.

        Returns:
            Values [batch, time, agents, 1], in the units of ``ValueNormaliser`` if ``normalise_values`` is set.

        Raises:
            NotImplementedError: the subclass does not override it.
        """
        raise NotImplementedError

    def evaluate(self, batch: Fields, t_env: int, episodes: Any = slice(None)) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the values of some episodes, and the critic's auxiliary losses. The learner calls this method.

        Args:
            batch: tensors by name, [batch, time, ...] each; at least those in ``reads``.
            t_env: environment steps so far. A critic that draws noise draws the same noise for the same ``t_env``,
                independent of ``episodes``.
            episodes: indices of the episodes, int64 [n].

        Returns:
            Values [n, time, agents, 1], and the losses: name -> [n, time, agents], weighted.
        """
        return self({name: batch[name][episodes] for name in self.reads}), {}


def build_critic(scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> Critic:
    """Build the critic that ``critic_type`` names.

    Args:
        scheme: fields of the batch, as in EPyMARL: name -> ``vshape`` and more.
        args: the configuration.

    Returns:
        The untrained critic.

    Raises:
        ConfigError: the plugin has no critic of this name.
    """
    critics = registry.ENTRIES["critic"]
    if args.critic_type not in critics:
        raise ConfigError(
            f"critic_type={args.critic_type} is unknown, or a critic of EPyMARL that fits only one map; "
            f"set it to one of: {', '.join(critics)}."
        )
    return registry.load(critics[args.critic_type])(scheme, args)


class EntityCritic(Critic):
    """Critic for every map: the state as seen by each agent -> entity features -> trunk -> mean over units -> V.

    ``args.critic_type`` names the trunk, as in ``updet_critic``.
    """

    def __init__(self, scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> None:
        super().__init__()
        self.seed = args.seed
        self.entity_features = CriticFeatures(_layouts(scheme, args), args.entity)
        with _seeded(args):
            self.trunk = build_trunk(args.critic_type.removesuffix("_critic"), self.entity_features.width, args)
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
        """Compute values and losses from state [batch, time, state_size] and the others [batch, time, agents, ...]."""
        entities = self.entity_features(state.transpose(0, 1), obs.transpose(0, 1), available.transpose(0, 1))
        memory = state.new_zeros(len(obs), obs.shape[2], self.trunk.memory_width)
        features = self.trunk.unroll(entities, memory, None if noise is None else noise.transpose(0, 1))
        weight = features.averaged.to(features.units.dtype)
        total = (weight.unsqueeze(-2) @ features.units).squeeze(-2)
        mean = total / weight.sum(-1, keepdim=True).clamp(min=1)  # 0 for a dead agent, which has no unit
        losses = {name: loss.transpose(0, 1) for name, loss in features.losses.items()}
        return self.value(mean).transpose(0, 1), losses


class MLPCritic(Critic):
    """MAPPO's critic for one map: [state | own observation | agent id] -> two hidden layers -> V.

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
    """Critic for every map: entities of the state -> linear -> Transformer encoder -> mean over living units -> V.

    Paper, section 4.4. There is one value for the whole team. No parameter depends on the number of units.
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
        # Skip states without living units: padding is a large part of a batch, and attention over no keys gives NaN.
        occupied = living.any(1).nonzero().squeeze(1)
        if not len(occupied):
            return self.value.bias.expand(state.shape[:-1])
        living = living[occupied]
        encoded = self.encoder(self.embed(tokens[occupied]), src_key_padding_mask=~living)
        weight = living.unsqueeze(-1).to(encoded.dtype)
        mean = (encoded * weight).sum(1) / weight.sum(1)
        means = mean.new_zeros(len(tokens), mean.shape[-1]).index_put((occupied,), mean)
        return self.value(means).squeeze(-1).unflatten(0, state.shape[:-1])


def _layouts(scheme: Mapping[str, Mapping[str, Any]], args: SimpleNamespace) -> Layouts:
    layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
    check_sizes(layouts, scheme, args.n_actions)
    return layouts


def _seeded(args: SimpleNamespace) -> Any:
    return seeded(int(keyed_seeds(args.seed, "critic", count=1)[0]))


class ValueNormaliser(nn.Module):
    """Normaliser of returns: keeps the critic's targets near mean 0 and variance 1 on every map.

    It uses debiased exponential moving averages of mean and variance (as in MAPPO, Yu et al. 2022).
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
