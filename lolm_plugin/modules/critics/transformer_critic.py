"""The Transformer critic (paper, section 4.4): the global state as a set of entities -> one value."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from lolm_plugin.llm.sources import seeded
from lolm_plugin.modules.critics.critic import Critic
from lolm_plugin.observations import build_layouts
from lolm_plugin.observations.checks import check_sizes
from lolm_plugin.randomness import keyed_seeds


class TransformerCritic(Critic):
    """Entities -> linear -> Transformer encoder -> mean over living entities -> V.

    No parameter depends on how many units there are, so that a critic moves between maps.
    Called like the host's critics: ``critic(batch, t=None)`` -> [batch, time, agents, 1]; it is one
    value of the whole team, repeated over agents.
    """

    reads = ("state",)

    def __init__(self, scheme: Mapping[str, Mapping], args: SimpleNamespace) -> None:
        super().__init__()
        layouts = build_layouts(args.env, args.env_args, args.n_agents, args.n_actions, args.layout)
        check_sizes(layouts, scheme, args.n_actions)
        self.entities = layouts.state.entities
        self.n_agents = args.n_agents
        shape: Mapping[str, Any] = args.critic
        with seeded(int(keyed_seeds(args.seed, "critic", count=1)[0])):
            self.embed = nn.Linear(layouts.state.width, shape["width"])
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

    def forward(self, batch: Any, t: int | None = None) -> Tensor:
        """States of a batch -> values [batch, time, agents, 1]."""
        state = batch["state"] if t is None else batch["state"][:, t : t + 1]
        return self.values(state)[..., None, None].expand(-1, -1, self.n_agents, 1)

    def values(self, state: Tensor) -> Tensor:
        """States [..., state_size] -> values [...]."""
        tokens, living = self.entities(state.flatten(0, -2))
        # Padding, where nobody lives, is a large part of a batch; attention over nothing would be NaN, too.
        some = living.any(1).nonzero().squeeze(1)
        if not len(some):
            return self.value.bias.expand(state.shape[:-1])
        living = living[some]
        encoded = self.encoder(self.embed(tokens[some]), src_key_padding_mask=~living)
        weight = living.unsqueeze(-1).to(encoded.dtype)
        mean = (encoded * weight).sum(1) / weight.sum(1)
        means = mean.new_zeros(len(tokens), mean.shape[-1]).index_put((some,), mean)
        return self.value(means).squeeze(-1).unflatten(0, state.shape[:-1])
