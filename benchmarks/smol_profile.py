"""One round of play and update under the microscope: linear products, layer passes and where the time goes.

Hooks on the linear layers of the real model count rows; timers stand around methods of the real controller and learner.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from benchmarks.engine import Engine
from lolm_plugin.llm.matmul import linear

PHASES = ("rollout", "reference", "learner forward", "learner backward")
SHARES = ("prompts", "frozen layers", "trained layers", "head and loss", "critic", "optimiser", "rest")


class Product(NamedTuple):
    """One matrix product of ``rows`` tokens in a phase of a round: forward X Wᵀ, backward G W."""

    phase: str
    layer: int
    name: str
    shape: tuple[int, int]  # outputs, inputs
    rows: int


class Clock:
    """Seconds by name. Time in a nested timer counts for that timer alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running = ["rest"]
        self._since = time.perf_counter()

    def timed(self, name: str, work: Callable) -> Callable:
        """Return ``work`` with a timer around it; the critic's backward pass stays the critic's."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._split()
            self._running.append("critic" if self._running[-1] == "critic" and name == "trained layers" else name)
            try:
                return work(*args, **kwargs)
            finally:
                self._split()
                self._running.pop()

        return call

    def shares(self) -> dict[str, float]:
        """Return the share of each name in all seconds so far."""
        self._split()
        return {name: self.seconds[name] / self.seconds.total() for name in SHARES}

    def _split(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


class Counts:
    """Linear products by what they are, counted by hooks while a round runs; ``phase`` is what runs now."""

    def __init__(self, model: nn.Module) -> None:
        self.products: Counter[Product] = Counter()
        self.phase = "rollout"
        self._modules = linear_modules(model)

    def hook(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Count the product of a forward call, and of its backward pass once that comes, if the input needs one."""
        layer, name, shape = self._modules[module]
        rows = inputs[0].numel() // shape[1]
        self.products[Product(self.phase, layer, name, shape, rows)] += 1
        if inputs[0].requires_grad and output.requires_grad:
            backward = Product("learner backward", layer, name, shape, rows)
            output.register_hook(lambda gradient: self.products.update([backward]))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Keep the hooks on the model."""
        hooks = [module.register_forward_hook(self.hook) for module in self._modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count under another phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before


def linear_modules(model: nn.Module) -> dict[nn.Module, tuple[int, str, tuple[int, int]]]:
    """Return layer, name and shape of each linear module that the model calls, LoRA's own two factors excluded."""
    found = {}
    for name, module in model.named_modules():
        of_model = type(module) is nn.Linear and "lora_" not in name and not name.endswith(".base_layer")
        if of_model or isinstance(module, LoraLinear):
            base = module.base_layer if isinstance(module, LoraLinear) else module
            found[module] = (int(re.search(r"\.(\d+)\.", name)[1]), name.rsplit(".", 1)[-1], tuple(base.weight.shape))
    return found


def profile(engine: Engine, batch: Any) -> tuple[dict[str, Any], Counter[Product]]:
    """Play and update once; return the numbers for the table, and the products for ``seconds_alone``."""
    mac, learner, clock = engine.mac, engine.learner, Clock()
    backbone, kept = mac.agent.backbone, [0]
    counts = Counts(backbone.lm)
    reference, end_update = mac.reference_states, mac.end_update

    def reference_states(steps: Any) -> Any:
        with counts.during("reference"):
            return reference(steps)

    def drop() -> None:
        kept.append(backbone.encoder.kept_bytes)
        end_update()

    timers = [
        (mac.agent, "prompts", "prompts"),
        (mac.agent, "logits", "head and loss"),
        (learner, "_actor_gradients", "head and loss"),
        (learner, "_update_critic", "critic"),
        (learner, "_old_values", "critic"),
        (learner.actor_optimiser, "step", "optimiser"),
        (learner.critic_optimiser, "step", "optimiser"),
        (torch.Tensor, "backward", "trained layers"),
    ]
    if backbone.encoder.packed:
        timers += [
            (backbone.encoder, "run_frozen_layers", "frozen layers"),
            (backbone.encoder, "run_trained_layers", "trained layers"),
        ]
    with ExitStack() as stack:
        stack.enter_context(counts.counting())
        stack.enter_context(patch.object(mac, "reference_states", reference_states))
        stack.enter_context(patch.object(mac, "end_update", drop))
        for target, method, name in timers:
            stack.enter_context(patch.object(target, method, clock.timed(name, getattr(target, method))))
        engine.play(batch)
        with counts.during("learner forward"):
            engine.update(batch)
        shares = clock.shares()
    prompts = engine.prompts(batch)
    tokens = sum(map(len, prompts))
    return {
        "tokens_per_decision": tokens / len(prompts),
        "prefix_tokens": len(mac.agent.prompter.prefix),
        "distinct_prompts_per_decision": len(set(prompts)) / len(prompts),
        "layers": backbone.num_layers,
        "layer_passes": layer_passes(counts.products, backbone.num_layers, tokens),
        "time_shares": shares,
        "kept_states_bytes": max(kept),
    }, counts.products


def layer_passes(products: Mapping[Product, int], layers: int, tokens: int) -> dict[str, dict[str, float]]:
    """Return how often each of ``tokens`` goes through a layer, by phase: layers below the last, and the last layer.

    A product counts by its share of a layer's weights, so that a last layer of keys and values alone is a fraction.
    """
    weights = {(p.layer, p.name): p.shape[0] * p.shape[1] for p in products}
    of_layer = Counter()
    for (layer, _), size in weights.items():
        of_layer[layer] += size
    passes = {phase: {"below": 0.0, "last": 0.0} for phase in PHASES}
    for product, times in products.items():
        share = weights[product.layer, product.name] / of_layer[product.layer]
        kind = "last" if product.layer == layers - 1 else "below"
        passes[product.phase][kind] += share * product.rows * times / tokens
    return passes


@torch.no_grad()
def seconds_alone(products: Mapping[Product, int], phases: Sequence[str], like: Tensor) -> float:
    """Run exactly the products of ``phases`` and nothing else; return their seconds. ``like`` has dtype and device."""
    calls: dict[tuple[tuple[int, int], int, bool], int] = defaultdict(int)
    for product, times in products.items():
        if product.phase in phases:
            calls[product.shape, product.rows, product.phase == "learner backward"] += times
    most = max((rows for _, rows, _ in calls), default=0)
    weights = {shape: torch.randn(shape).to(like) for shape, _, _ in calls}
    inputs = {width: torch.randn(most, width).to(like) for shape in weights for width in shape}
    started = time.perf_counter()
    for (shape, rows, backward), times in calls.items():
        weight = weights[shape].T if backward else weights[shape]
        x = inputs[shape[0] if backward else shape[1]][:rows]
        for _ in range(times):
            linear(x, weight)
    return time.perf_counter() - started
