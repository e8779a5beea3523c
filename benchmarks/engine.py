"""The engine's side: the package's controller and learner on recorded battles, without Sacred or a host."""

import functools
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import battles
from benchmarks.setting import Setting
from lolm_plugin.configuration import config_check, config_files, updates
from lolm_plugin.controllers.prompt_controller import PromptMAC
from lolm_plugin.envs import smax_scenarios
from lolm_plugin.learners import ppo_core
from lolm_plugin.learners.mappo import MAPPOLearner
from lolm_plugin.modules.heads import COLLECTED
from lolm_plugin.paths import BUNDLED

KL_COEF = 0.5  # not 0, so that the KL is part of every gradient
ADAPTER_STD = 0.01  # of LoRA's B; B starts at 0, and then errors in A have no effect
UNLIMITED_NORM = 1e9  # larger than any gradient's norm, so nothing is clipped
# Settings that switch off the CPU speed-ups of lolm_mappo_smol: one at a time, and all.
SMOL_OFF: dict[str, dict[str, Any]] = {
    "lora_layers": {"lora": {"layers": None}},
    "terse": {"prompt": {"style": "compact"}},
    "share_prefix": {"llm": {"share_prefix": False}},
    "read_positions": {"llm": {"read_positions": False}},
    "keep_rollout_states": {"llm": {"keep_rollout_states": False}},
}
SMOL_OFF["all_off"] = functools.reduce(config_files.merge, SMOL_OFF.values())


class Engine:
    """A policy and its learner. Learning rates are 0, so that every repeat does the same work with the same weights."""

    def __init__(self, args: SimpleNamespace) -> None:
        """Build controller and learner from ``args`` of ``configured`` or ``arguments``."""
        self.args = args
        scheme = battles.scheme(args)
        self.mac = PromptMAC(scheme, {"agents": args.n_agents}, args)
        # The update uses the recorded actions, not those that the controller has just chosen, so ratios are not 1.
        self.mac.ratio_tolerance = lambda: float("inf")
        self.learner = MAPPOLearner(self.mac, scheme, _SilentLogger(), args)
        if args.device != "cpu":
            self.learner.cuda()
        _fill_adapter(self.mac, args.seed)
        self.learner.kl.measure(policy_loss=KL_COEF, kl_loss=1.0)

    def play(self, batch: Any) -> None:
        """Choose actions at every step for the running episodes, as a runner does."""
        self.mac.init_hidden(batch.batch_size)
        for t, running in enumerate(battles.valid(batch).T):
            episodes = running.nonzero().flatten().tolist()
            if episodes:
                self.mac.select_actions(batch, t, t_env=0, bs=episodes)

    def log_probs(self, batch: Any) -> Tensor:
        """Return the log-probabilities that ``play`` samples from: [decisions, actions], -inf where unavailable."""
        valid = battles.valid(batch).T
        steps = [self.mac.act(batch, t, 0, running, test_mode=False).log_probs for t, running in enumerate(valid)]
        return torch.stack(steps, 1)[battles.deciding(batch)]

    def update(self, batch: Any) -> None:
        """Update policy and critic with the batch. At the end, frozen states kept by ``play`` are dropped."""
        self.learner.train(batch, t_env=0, episode_num=0)

    @torch.no_grad()
    def advantages(self, batch: Any) -> Tensor:
        """Return the advantages of the next ``update`` [episodes, time, agents]. Only those of decisions are used."""
        valid = battles.valid(batch).float().unsqueeze(-1)
        values = self.learner.critic.evaluate(batch, 0)[0].squeeze(-1)
        values = self.learner.value_normaliser.denormalise(values)
        rewards = batch["reward"][:, :-1].expand(-1, -1, self.args.n_agents)
        terminated = batch["terminated"][:, :-1].float()
        advantages, _ = ppo_core.gae(rewards, values, terminated, valid, self.args.gamma, self.args.gae_lambda)
        return ppo_core.normalise(advantages, battles.deciding(batch).float())

    def prompt_lengths(self, batch: Any, t: int | None = None) -> list[int]:
        """Return the length in tokens of each distinct prompt of all steps, or of step ``t``, without the prefix."""
        chosen = battles.deciding(batch)
        if t is not None:
            chosen = chosen & (torch.arange(chosen.shape[1], device=chosen.device) == t)[None, :, None]
        available = batch["avail_actions"][:, :-1][chosen] > 0
        agents = chosen.nonzero()[:, 2]
        encoded = self.mac.agent.prompter.encode(batch["obs"][:, :-1][chosen], available, agents)
        return [len(ids) for ids in {tuple(ids) for ids in encoded}]


def arguments(
    setting: Setting, lora_layers: int | None, further: Mapping[str, Any] = MappingProxyType({})
) -> SimpleNamespace:
    """Return the paper's configuration with the changes of ``setting`` and ``further`` ones.

    ``lora_layers`` None means all layers.
    """
    llm = {name: getattr(setting, name) for name in ("model", "num_layers", "pretrained", "dtype")}
    changes = {
        "llm": llm,
        "preset": "reference",
        "prompt": {"style": setting.style},
        "epochs": setting.epochs,
        "minibatches": 1,
        "seed": setting.seed,
        "lora": {"layers": lora_layers},
    }
    return configured("lolm_mappo", setting.map, config_files.merge(changes, further), setting.device)


def smol_engine(setting: Setting, off: Mapping[str, Any] | None) -> Engine:
    """Build the engine of ``lolm_mappo_smol`` with the settings of ``off``, or else those of ``--with``."""
    llm = {"model": setting.model} | ({"num_layers": setting.num_layers} if setting.num_layers else {})
    changes = config_files.merge({"seed": setting.seed, "llm": llm}, off or updates.parse(setting.updates))
    engine = Engine(configured("lolm_mappo_smol", setting.map, changes, setting.device))
    head = engine.mac.agent.head
    if head.needs_statistics:  # measured once per run, so not part of the time
        engine.mac.agent.measure_features()
        head.normaliser.measured.fill_(COLLECTED)
    return engine


def configured(algorithm: str, map_name: str, changes: Mapping[str, Any], device: str) -> SimpleNamespace:
    """Resolve an algorithm's configuration on a SMAX map, with ``changes`` and learning rates of 0.

    Raises ConfigError for an unknown key.
    """
    fixed = {
        "env_args": {"map_name": map_name},
        "head": {"init_std": 0.02},  # larger logits, so that differences are visible
        "layout": {"probes": False},  # they check environments, not the engine
        **dict.fromkeys(("lr", "head_lr", "critic_lr"), 0.0),
        "grad_norm_clip": UNLIMITED_NORM,
    }
    host_dir = BUNDLED / "config"
    changes = config_files.merge(changes, fixed)
    config = config_check.apply_updates(config_files.resolve(algorithm, "smax", host_dir), changes, host_dir)
    n_agents, n_actions = smax_scenarios.sizes({"map_name": map_name})
    return SimpleNamespace(**config | {"device": device, "n_agents": n_agents, "n_actions": n_actions})


def _fill_adapter(mac: PromptMAC, seed: int) -> None:
    """Set LoRA's B to small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    state = mac.agent.backbone.adapter_state()
    for name in sorted(state):
        if "lora_B" in name:
            state[name] = torch.randn(state[name].shape, generator=generator) * ADAPTER_STD
    mac.agent.backbone.load_adapter_state(state)


class _SilentLogger:
    """Replacement for a host's logger that logs nothing."""

    console_logger = SimpleNamespace(info=lambda text: None)

    def log_stat(self, name: str, value: float, t_env: int) -> None:
        """Ignore the value."""
