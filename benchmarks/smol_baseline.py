"""``lolm_mappo_smol`` before it was made faster, frozen, so that later changes are measured against the same thing.

Frozen are its settings, its prompt style and its last layer. What both sides share (packing, matrix products, critic,
learner) is the package's own, so a later change there speeds up both.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor, nn

from lolm_plugin import registry
from lolm_plugin.llm import stages
from lolm_plugin.llm.packing import Packing
from lolm_plugin.prompts.scene import AgentBatch, UnitBatch
from lolm_plugin.prompts.style import Listing, PromptStyle
from lolm_plugin.prompts.template import Sentence, choose, if_present, kinds, template, where

STYLE = "compact_before"  # exists only inside of ``styles``
SETTINGS: dict[str, Any] = {
    "clip_per_group": False,
    "lr_decay": False,
    "llm": {
        "model": "smollm2-135m",
        "pretrained": True,
        "train": "lora",
        "num_layers": 4,
        "dtype": "auto",
        "quantization": "none",
        "token_budget": None,
        "share_prefix": True,
        "product": "auto",
        "recompute": False,
        "trunk_cache_gb": 4.0,
        "keep_rollout_states": False,
        "read_positions": True,  # by ``WantedTokens``, which stands in for the layer of today
    },
    "lora": {"layers": None, "rank": 8, "alpha": 16, "targets": "all-linear"},
    "prompt": {"style": STYLE, "source": None, "dynamic": True},
    "head": {"attack_keys": "shared", "features": "raw"},
    "kl": {"enabled": True, "direction": "forward", "anneal_steps": 20000, "eps": 0.000001, "coef_max": 1.0},
    "critic_type": "transformer_critic",
    "critic": {"width": 64, "layers": 1, "heads": 4},
    "epochs": 2,
    "minibatches": 4,
    "critic_minibatches": 1,
    "microbatch": 8192,
    "normalise_advantages": True,
    "normalise_values": True,
    "mask_dead": True,
    "clip_values": True,
}


@contextmanager
def styles() -> Iterator[None]:
    """Let ``prompt.style`` be the frozen style, too."""
    with patch.dict(registry.PROMPT_STYLES, {STYLE: f"{__name__}:CompactBefore"}):
        yield


@contextmanager
def last_layer() -> Iterator[None]:
    """Build language models with the last layer of before."""
    with patch.object(stages, "TopLayer", WantedTokens):
        yield


class WantedTokens(nn.Module):
    """A last layer with queries, keys, values and attention output for all tokens, the MLP for those that are read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, packing: Packing, **context: Any) -> Tensor:
        """States [1, tokens, hidden] -> states at the positions that are read [1, positions, hidden]."""
        layer = self.layer
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), packing=packing, **context)
        read = (hidden_states + attended)[:, packing.wanted.to(attended.device)]
        return read + layer.mlp(layer.post_attention_layernorm(read))


_SHORT_ACTION = {"no-op": "none", **{f"move {way}": way for way in ("north", "south", "east", "west")}}
_SIDE = re.compile(" (enemy|ally) ")


class CompactBefore(PromptStyle):
    """A copy of the compact style with health to two decimals and offsets to one."""

    short = True
    instruction = "Battle. Pick one action for your unit.\n"
    goal = "Goal: kill all enemies, weakest first, and stay alive.\n"
    actions = Listing("Actions: ", " ", "\n", spoken=lambda name: _SHORT_ACTION.get(name) or _SIDE.sub(" ", name))
    cue = "Best:"

    def me(self, me: AgentBatch) -> Sentence:
        """Describe the observing agent."""
        wait = if_present(" wait {cooldown:.2f}", me).where(me.cooldown != 0)
        return template("You: {kind}{condition}{wait}\n", kind=kinds(me.kind), condition=_condition(me), wait=wait)

    def unit(self, unit: UnitBatch) -> Sentence:
        """Describe another unit in one line."""
        east, north = _offset(unit.east, "east", "west"), _offset(unit.north, "north", "south")
        here = template(" here").where(_unmoved(unit.east) & _unmoved(unit.north))
        offset = east + north + here
        line = ": {kind}{condition}{offset}\n"
        seen = template(line, kind=kinds(unit.kind), condition=_condition(unit), offset=offset)
        hidden, gone = template(": in range, unknown\n"), template(": none\n")
        return template("{side} {number}", unit) + where(unit.seen, seen, where(unit.in_range, hidden, gone))


def _offset(cells: np.ndarray, positive: str, negative: str) -> Sentence:
    side = choose(cells > 0, positive, negative)
    return template(" {cells:.1f} {side}", cells=abs(cells), side=side).where(~_unmoved(cells))


def _unmoved(cells: np.ndarray) -> np.ndarray:
    return abs(cells) < 0.05


def _condition(unit: AgentBatch | UnitBatch) -> Sentence:
    return if_present(" hp {health:.2f}", unit) + if_present(" shield {shield:.2f}", unit)
