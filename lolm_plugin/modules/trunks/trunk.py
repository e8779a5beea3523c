"""What an entity network is: tokens of any number of units in, features of each of them out.

Actors put an action head on the features, critics a mean and a value. No parameter depends on how many units
there are, so that weights move between maps.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from lolm_plugin import registry
from lolm_plugin.modules.heads.mean_action_head import MeanActionHead
from lolm_plugin.modules.initialisation import Gains
from lolm_plugin.observations.entity_tokens import EntityTokens


class Features(NamedTuple):
    """What a trunk says about the observer and the units around it, whatever the leading dimensions ``[...]``."""

    own: Tensor  # [..., width]
    targets: Tensor  # [..., n_targets, width]; meaningless where there is no token for a target
    rows: Tensor  # [..., m, width]: what a critic averages
    counted: Tensor  # bool [..., m]: the rows it averages
    memory: Tensor  # [..., memory_width]
    losses: Mapping[str, Tensor] = {}  # name -> [...], weighted: what is learned beside the task
    attention: Tensor | None = None  # [..., n], without gradient: where the own token looks, adds up to 1
    subtask: Tensor | None = None  # [..., subtasks], without gradient: one-hot

    def map(self, change: Callable[..., Tensor], *others: Self) -> Self:
        """``change`` of every tensor; with ``others``, of the tensors at the same place in each of them."""

        def apply(*values: Any) -> Any:
            if isinstance(values[0], Mapping):
                return {name: apply(*(value[name] for value in values)) for name in values[0]}
            return None if values[0] is None else change(*values)

        return type(self)(*map(apply, self, *others))


class Trunk(nn.Module):
    """The base of all entity networks; ``shape`` is a network's own config section, ``entity`` the shared one."""

    width: int  # of the features
    memory_width: int = 0  # of what an agent carries from step to step
    noise_width: int = 0  # of what it draws at each step
    noise_mode: str = "stored"  # which draws a policy learns with; see ``Policy``
    every_unit: bool = True  # False: features of the own token and of targets alone, which is all a policy reads

    def __init__(self, token_width: int, shape: Mapping[str, Any], entity: Mapping[str, Any]) -> None:
        super().__init__()
        self.gains = Gains.of(entity)
        self.mask_absent = entity["mask_absent"]

    def forward(self, tokens: EntityTokens, memory: Tensor, noise: Tensor | None = None) -> Features:
        """One step of tokens [..., agents, n, width], or of single agents where there is no memory.

        ``memory`` [..., memory_width] is zeros when an episode begins. ``noise`` [..., noise_width] is what ``noise``
        drew; None: decide greedily.
        """
        raise NotImplementedError

    def unroll(self, tokens: EntityTokens, memory: Tensor, noise: Tensor | None = None) -> Features:
        """Many steps: tokens and noise [time, ...], memory [...] before the first; all results are [time, ...]."""
        steps = len(tokens.tokens)
        if not self.memory_width:
            return self(tokens, memory.expand(steps, *memory.shape), noise)
        results = []
        for t in range(steps):
            results.append(self(at(tokens, t), memory, None if noise is None else noise[t]))
            memory = results[-1].memory
        return results[0].map(lambda *values: torch.stack(values), *results[1:])

    def noise(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """Draws [*shape, noise_width] for as many decisions."""
        return torch.zeros(*shape, 0)

    def make_head(self) -> nn.Module:
        """The action head: ``head(features.own, features.targets, tokens.targets)`` -> logits [..., 6 + n_targets]."""
        return MeanActionHead(self.width, self.gains.head)

    def wanted(self, tokens: EntityTokens, units: Tensor) -> Tensor:
        """Those of the units [..., n, width] whose features are asked for: all, or the own one and the targets."""
        if self.every_unit:
            return units
        return torch.cat([units[..., :1, :], pick(units, tokens.targets)], dim=-2)

    def told_apart(self, tokens: EntityTokens, rows: Tensor) -> dict[str, Tensor]:
        """The features ``rows`` of the ``wanted`` units as ``own``, ``targets``, ``rows`` and ``counted``."""
        own = rows[..., 0, :]
        if self.every_unit:
            targets, counted = pick(rows, tokens.targets), self.counted(tokens.present)
        else:
            targets, counted = rows[..., 1:, :], torch.ones_like(rows[..., 0], dtype=torch.bool)
        return {"own": own, "targets": targets, "rows": rows, "counted": counted}

    def allowed(self, tokens: EntityTokens) -> Tensor | None:
        """The tokens bool [..., n] that attention may look at, always the own one; None: all."""
        if not self.mask_absent:
            return None
        allowed = tokens.present.clone()
        allowed[..., 0] = True
        return allowed

    def counted(self, present: Tensor) -> Tensor:
        """The rows that a critic averages, of units that are ``present`` bool [..., m]."""
        return present if self.mask_absent else torch.ones_like(present)


def at(tokens: EntityTokens, index: Any) -> EntityTokens:
    """The tokens at an index of the leading dimensions."""
    return EntityTokens(tokens.tokens[index], tokens.present[index], tokens.targets[index])


def pick(rows: Tensor, tokens: Tensor) -> Tensor:
    """Rows [..., n, width] of the ``tokens`` int64 [..., m]: [..., m, width]; of token -1 any row."""
    return rows.gather(-2, tokens.clamp(min=0).unsqueeze(-1).expand(*tokens.shape, rows.shape[-1]))


def build_trunk(name: str, token_width: int, args: SimpleNamespace) -> Trunk:
    """The registered trunk of this name, in the shape that its section of the configuration says."""
    return registry.load(registry.TRUNKS[name])(token_width, getattr(args, name), args.entity)
