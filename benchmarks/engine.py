"""The engine's side: the package's own controller and learner over recorded battles, without Sacred or a host."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import data
from benchmarks.setting import Setting
from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.controllers.prompt_controller import PromptMAC
from lolm_plugin.envs import smax_scenarios
from lolm_plugin.learners import ppo_core
from lolm_plugin.learners.mappo_learner import MAPPOLearner
from lolm_plugin.observations import build_layouts
from lolm_plugin.paths import BUNDLED

KL_COEF = 0.5  # so that the KL is part of every gradient
ADAPTER_STD = 0.01  # of LoRA's B, which starts at 0 and would hide every mistake in A
NEVER = 1e9  # no gradient is that long


class Engine:
    """A policy and its learner. No weight moves (learning rates of 0), so that every repeat does the same work."""

    def __init__(self, args: SimpleNamespace) -> None:
        """Build the controller and learner of ``args``, which ``configured`` or ``arguments`` returns."""
        self.args = args
        layouts = build_layouts("smax", self.args.env_args, self.args.n_agents, self.args.n_actions, self.args.layout)
        sizes = {"agents": self.args.n_agents, "obs": layouts.observation.size, "state": layouts.state.size}
        scheme = data.scheme(sizes | {"actions": self.args.n_actions})
        self.mac = PromptMAC(scheme, {"agents": self.args.n_agents}, self.args)
        # The actions learned from are those of the recorded battles, not what it has just played.
        self.mac.ratio_tolerance = lambda: float("inf")
        self.learner = MAPPOLearner(self.mac, scheme, _Silence(), self.args)
        if args.device != "cpu":
            self.learner.cuda()
        fill_adapter(self.mac, args.seed)
        self.learner.kl.measure(policy_loss=KL_COEF, kl_loss=1.0)

    def play(self, batch: Any) -> None:
        """Choose actions at every step for the episodes that go on, as a runner asks for them."""
        self.mac.init_hidden(batch.batch_size)
        for t, running in enumerate(data.valid(batch).T):
            going = running.nonzero().flatten().tolist()
            if going:
                self.mac.select_actions(batch, t, t_env=0, bs=going)

    def log_probs(self, batch: Any) -> Tensor:
        """What ``play`` draws from: [decisions, actions], -inf where unavailable."""
        steps = [self.mac.act(batch, t, 0, on, test_mode=False).log_probs for t, on in enumerate(data.valid(batch).T)]
        return torch.stack(steps, 1)[data.deciding(batch)]

    def update(self, batch: Any) -> None:
        """A whole update of policy and critic."""
        self.learner.train(batch, t_env=0, episode_num=0)

    def gradients(self) -> dict[str, Tensor]:
        """Of everything the policy trains, by name, as the last epoch left them."""
        named = self.mac.agent.named_parameters()
        found = {name: parameter.grad for name, parameter in named if parameter.requires_grad}
        return {name.removeprefix("backbone."): gradient.float() for name, gradient in found.items()}

    @torch.no_grad()
    def logits(self, batch: Any) -> Tensor:
        """The learner's own reading of all decisions: [decisions, actions]."""
        steps = self.mac.agent_steps(batch, data.valid(batch))
        everything = torch.arange(len(steps), device=self.mac.device)
        logits = torch.empty(len(steps), self.args.n_actions, device=self.mac.device)
        for rows in self.mac.microbatches(steps, everything):
            logits[rows] = self.mac.evaluate(steps, rows).logits
        return logits

    @torch.no_grad()
    def advantages(self, batch: Any) -> Tensor:
        """What the next ``update`` will learn from: [episodes, time, agents], meaningless outside decisions."""
        valid = data.valid(batch).float().unsqueeze(-1)
        values = self.learner.critic.evaluate(batch, 0)[0].squeeze(-1)
        values = self.learner.value_normaliser.denormalise(values)
        rewards = batch["reward"][:, :-1].expand(-1, -1, self.args.n_agents)
        terminated = batch["terminated"][:, :-1].float()
        advantages, _ = ppo_core.gae(rewards, values, terminated, valid, self.args.gamma, self.args.gae_lambda)
        return ppo_core.normalise(advantages, data.deciding(batch).float())

    def own_tokens(self, batch: Any, t: int | None = None) -> list[int]:
        """Lengths of the different prompts of all decisions, or of those at ``t``, without what all begin with."""
        return [len(sequence) for sequence in set(self.prompts(batch, t))]

    def prompts(self, batch: Any, t: int | None = None) -> list[tuple[int, ...]]:
        """Return the token ids of each decision's prompt (of all, or of those at ``t``) without the shared prefix."""
        rows = data.deciding(batch)
        if t is not None:
            rows = rows & (torch.arange(rows.shape[1], device=rows.device) == t)[None, :, None]
        available = batch["avail_actions"][:, :-1][rows] > 0
        agents = rows.nonzero()[:, 2]
        return [tuple(ids) for ids in self.mac.agent.prompter.encode(batch["obs"][:, :-1][rows], available, agents)]


def arguments(setting: Setting, lora_layers: int | None) -> SimpleNamespace:
    """The paper's configuration with what the setting changes; ConfigError for a key this version does not have."""
    updates = {
        "llm": {
            "model": setting.model,
            "num_layers": setting.num_layers,
            "pretrained": setting.pretrained,
            "dtype": setting.dtype,
        },
        "preset": "reference",
        "prompt": {"style": setting.style},
        "epochs": setting.epochs,
        "minibatches": 1,
        "seed": setting.seed,
    }
    if lora_layers is not None:
        updates["lora"] = {"layers": lora_layers}
    return configured("lolm_mappo", setting.map_name, updates, setting.device)


def configured(algorithm: str, map_name: str, updates: Mapping[str, Any], device: str) -> SimpleNamespace:
    """Resolve an algorithm's configuration on a SMAX map, with ``updates`` and learning rates of 0.

    Raises ConfigError for a key that this version does not have.
    """
    battle = smax_scenarios.scenario(map_name)
    fixed = {
        "env_args": {"map_name": map_name},
        "head": {"init_std": 0.02},  # logits large enough for differences to show
        "layout": {"probes": False},  # these are about environments
        **dict.fromkeys(("lr", "head_lr", "critic_lr"), 0.0),
        "grad_norm_clip": NEVER,
    }
    host_dir = BUNDLED / "config"
    updates = config_files.merge(updates, fixed)
    config = config_check.apply_updates(config_files.resolve(algorithm, "smax", host_dir), updates, host_dir)
    n_agents, n_actions = smax_scenarios.sizes({"map_name": battle.name})
    return SimpleNamespace(**config | {"device": device, "n_agents": n_agents, "n_actions": n_actions})


def fill_adapter(mac: PromptMAC, seed: int) -> None:
    """LoRA's B with small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    state = mac.agent.backbone.adapter_state()
    for name in sorted(state):
        if "lora_B" in name:
            state[name] = torch.randn(state[name].shape, generator=generator) * ADAPTER_STD
    mac.agent.backbone.load_adapter_state(state)


class _Silence:
    """A host's logger that logs nothing."""

    console_logger = SimpleNamespace(info=lambda text: None)

    def log_stat(self, name: str, value: float, t_env: int) -> None:
        """Nowhere."""
