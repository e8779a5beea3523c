"""Entries of the benchmark by name. Each function measures with a Bench and returns entries of the result."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import battles, kept, memory
from benchmarks.engine import KL_COEF, SMOL_OFF, Engine, arguments, smol_engine
from benchmarks.gemm_rate import Floor
from benchmarks.plain_port import PlainPort
from benchmarks.setting import Entry, Setting, alternate
from lolm_plugin.run.components import play

ABSOLUTE = 1e-4  # largest difference of a log-probability or gradient allowed in float32
RELATIVE = 1e-3  # largest norm of a gradient's difference allowed, as a share of the gradient's norm
FLOOR = 1e-3  # share of the largest gradient's norm that replaces a smaller norm in this comparison
ALL_STEPS = 10**6


class Mismatch(Exception):
    """The two sides do not compute the same, so their times cannot be compared."""


class Bench:
    """Shared state of the entries. ``checks`` are further numbers, by name."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.checks: dict[str, float] = {}
        self._engines: dict[int | None, Engine] = {}

    def batch(self, steps: int, episodes: int | None = None) -> Any:
        """Return ``steps`` steps of all battles, or of the first ``episodes``, on the setting's device."""
        whole = battles.play(self.setting.map, self.setting.episodes, self.setting.seed)
        batch = battles.some_steps(whole[:episodes] if episodes else whole, steps)
        batch.to(self.setting.device)
        return batch

    def engine(self, lora_layers: int | None = None) -> Engine:
        """Return the engine with LoRA on the top ``lora_layers`` layers. None means all layers."""
        if lora_layers not in self._engines:
            self._engines[lora_layers] = Engine(arguments(self.setting, lora_layers))
        return self._engines[lora_layers]

    @cached_property
    def port(self) -> PlainPort:
        """Return the plain port with the weights of the engine that has LoRA on all layers."""
        return PlainPort(self.engine().args, self.engine().mac)

    def check(self, name: str, absolute: float, relative: float = 0.0) -> None:
        """Raise Mismatch if the differences are larger than float32 rounding explains."""
        if self.setting.dtype == "float32" and not (absolute <= ABSOLUTE and relative <= RELATIVE):
            raise Mismatch(
                f"{name}: engine and plain port do not compute the same: the largest difference is {absolute:.1e}, for "
                f"gradients {relative:.1e} of their norm. The benchmark stops."
            )


def prompts(bench: Bench) -> list[Entry]:
    """Time the tokenisation of each step's decisions, without the prefix. Both sides get the same living agents."""
    prompter, plain = bench.engine().mac.agent.prompter, bench.port.prompts
    steps = decisions(bench.batch(bench.setting.steps))
    if any(list(map(list, prompter.encode(*step))) != plain.token_ids(*step) for step in steps):
        raise Mismatch("prompts: engine and plain port do not have the same token ids. The benchmark stops.")
    sides = {"baseline": plain.token_ids, "engine": prompter.encode}
    timed = {side: partial(lambda encode: [encode(*step) for step in steps], encode) for side, encode in sides.items()}
    bench.checks["prompts_decisions"] = sum(len(agents) for _, _, agents in steps)
    return [Entry("prompts", **alternate(timed, max(3, bench.setting.repeats)), max_abs_diff=0.0)]


def rollout(bench: Bench) -> list[Entry]:
    """Time the choice of actions for all episodes at every step."""
    setting, engine, port = bench.setting, bench.engine(), bench.port
    batch = bench.batch(setting.steps)
    difference = farthest(engine.log_probs(batch), port.log_probs(batch))
    bench.check("rollout", difference)
    tokens = sum(sum(engine.prompt_lengths(batch, t)) for t in range(batch.max_seq_length - 1))
    floor, prefix = (
        Floor(port.frozen, engine.mac.agent.backbone.encoder.settings.read_positions),
        len(engine.mac.agent.prompter.prefix),
    )
    work = floor.rollout(tokens, prefix)
    sides = {
        "baseline": lambda: port.play(batch),
        "engine": lambda: engine.play(batch),
        "gemm": lambda: floor.seconds(work, setting.device, port.frozen.dtype),
    }
    seconds = alternate(sides, setting.repeats, setting.device)
    bench.checks |= {"rollout_tokens": tokens, "rollout_tokens_plain": port.prompts.padded_tokens(batch)}
    fraction = seconds.pop("gemm") / seconds["engine"]
    return [Entry("rollout", **seconds, max_abs_diff=difference, gemm_fraction=fraction)]


def learner(bench: Bench, name: str, lora_layers: int | None) -> list[Entry]:
    """Time an update. The engine also updates a critic; the plain port has none, and LoRA on all layers."""
    setting, engine, port = bench.setting, bench.engine(lora_layers), bench.port
    batch = bench.batch(setting.learner_steps)
    same_weights = port if lora_layers is None else PlainPort(engine.args, engine.mac)
    fullest = int(battles.deciding(batch).sum((1, 2)).argmax())  # one episode is enough to compare
    episode = batch[fullest : fullest + 1]
    absolute, relative = gradient_differences(engine, same_weights, episode, setting.baseline_tokens)
    bench.check(name, absolute, relative)
    layers, prefix = port.frozen.config.num_hidden_layers, len(engine.mac.agent.prompter.prefix)
    floor = Floor(port.policy["lm"], engine.mac.agent.backbone.encoder.settings.read_positions)
    tokens = sum(engine.prompt_lengths(batch))
    batches = max(1, math.ceil(tokens / max(1, engine.mac.token_budget - prefix)))
    work = floor.learner(layers - (lora_layers or layers), tokens, prefix, batches, setting.epochs)
    advantages = bench.engine().advantages(batch)
    engine.play(batch)  # the learner checks that its policy is the one that played
    sides = {
        "baseline": lambda: port.update(batch, advantages, KL_COEF, setting.baseline_tokens),
        "engine": lambda: (engine.mac.end_update(), engine.update(batch)),  # without frozen states kept by play
        "gemm": lambda: floor.seconds(work, setting.device, port.frozen.dtype),
    }
    seconds = alternate(sides, setting.repeats, setting.device)
    bench.checks |= {f"{name}_gradient_difference_relative": relative, "learner_tokens": tokens}
    bench.checks |= {"learner_tokens_plain": port.prompts.padded_tokens(batch)}
    fraction = seconds.pop("gemm") / seconds["engine"]
    return [Entry(name, **seconds, max_abs_diff=absolute, gemm_fraction=fraction)]


def epoch_memory(bench: Bench) -> list[Entry]:
    """Measure the peak memory of one epoch above the memory before it. The plain port keeps the graph of all steps."""
    setting = replace(bench.setting, epochs=1)
    tokens_a_step = bench.port.prompts.padded_tokens(bench.batch(1, episodes=1))
    return memory.compare(setting, bench.batch(max(1, setting.memory_tokens // tokens_a_step), episodes=1))


def env(bench: Bench) -> list[Entry]:
    """Time one environment step of ``updet_mappo`` in 32 parallel battles of 3m: rollout, and rollout with training."""
    parts, found = battles.components("updet_mappo", "3m", 32, bench.setting.seed), []

    def train() -> None:
        parts.learner.train(play(parts), parts.runner.t_env, 0)

    for name, work in (("env_rollout", parts.runner.run), ("env_training", train)):
        for seconds in (1, bench.setting.env_seconds):  # the first round compiles jax and allocates memory
            first, started = parts.runner.t_env, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds:
                work()
        found.append(Entry(name, None, elapsed / (parts.runner.t_env - first)))
    return found


def smol(bench: Bench) -> list[Entry]:
    """Time whole battles and an update of ``lolm_mappo_smol``. In the baseline, one or all of its speed-ups are off."""
    setting, batch = bench.setting, bench.batch(ALL_STEPS)
    engines = {name: smol_engine(setting, off) for name, off in (("now", None), *SMOL_OFF.items())}
    sides = {}
    for name, engine in engines.items():
        sides[f"{name} rollout"] = partial(engine.play, batch)
        sides[f"{name} learner"] = partial(engine.update, batch)
    alternate(sides, 1, setting.device)  # warm-up
    seconds = alternate(sides, setting.repeats, setting.device)
    for name in engines:
        seconds[f"{name} both"] = seconds[f"{name} rollout"] + seconds[f"{name} learner"]
    decisions = int(battles.deciding(batch).sum())
    parts = ("rollout", "learner", "both")
    bench.checks |= {f"smol_{part}_decisions_per_second": decisions / seconds[f"now {part}"] for part in parts}
    asked = [("all_off", part) for part in parts] + [(name, "both") for name in SMOL_OFF if name != "all_off"]
    return [Entry(f"smol_{name}_{part}", seconds[f"{name} {part}"], seconds[f"now {part}"]) for name, part in asked]


def keep_battles(bench: Bench) -> list[Entry]:
    """Time a test with and without two kept battles: of a language model, and of a small network."""
    found = []
    for name, algorithm in (("keep_battles", "lolm_mappo_smol"), ("keep_battles_updet", "updet_mappo")):
        found.append(entry := kept.measure(bench.setting, name, algorithm))
        assert entry.baseline is not None
        bench.checks[f"{name}_added_share_of_a_test"] = entry.engine / entry.baseline - 1
    return found


def decisions(batch: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return obs [n, obs_size], available bool [n, actions] and agent [n] of the n decisions of each step."""
    deciding, steps = battles.deciding(batch), []
    for t in range(deciding.shape[1]):
        chosen = deciding[:, t]
        available = batch["avail_actions"][:, t][chosen] > 0
        steps.append((batch["obs"][:, t][chosen], available, chosen.nonzero()[:, 1]))
    return steps


def gradient_differences(engine: Engine, port: PlainPort, batch: Any, graph_tokens: int | None) -> tuple[float, float]:
    """Return the largest difference between the gradients of an update: absolute, and relative to a tensor's norm."""
    advantages = engine.advantages(batch)
    engine.play(batch)  # the learner checks that its policy is the one that played
    engine.update(batch)
    port.update(batch, advantages, KL_COEF, graph_tokens, epochs=1)  # with learning rates of 0 all epochs are equal
    ours, theirs = gradients(engine.mac.agent), gradients(port.policy)
    assert ours.keys() <= theirs.keys(), "the engine trains a parameter that the plain port does not have"
    floor = FLOOR * max(float(theirs[name].norm()) for name in ours)
    relative = (float((ours[k] - theirs[k]).norm()) / max(floor, float(theirs[k].norm())) for k in ours)
    return max(farthest(ours[name], theirs[name]) for name in ours), max(relative)


def gradients(policy: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the last epoch by parameter name."""
    named = [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
    return {name.removeprefix("backbone."): parameter.grad.float() for name, parameter in named}


def farthest(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference. Equal infinities count as equal."""
    return float(torch.where(first == second, 0.0, (first - second).abs()).max()) if first.numel() else 0.0


ENTRIES: dict[str, Callable[[Bench], list[Entry]]] = {
    "memory": epoch_memory,  # first, while the other entries do not hold memory yet
    "prompts": prompts,
    "rollout": rollout,
    "learner_full_lora": lambda bench: learner(bench, "learner_full_lora", None),
    "learner_cached_trunk": lambda bench: learner(bench, "learner_cached_trunk", bench.setting.layers),
    "env": env,
    "smol": smol,
    "keep_battles": keep_battles,
}
