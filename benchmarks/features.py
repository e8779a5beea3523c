"""Measure how much a frozen language model's hidden state depends on the observation, before and after normalisation.

    python -m benchmarks.features [--env probe] [--map retreat] [--model smollm2-135m] [--num-layers 4] [--style terse]

Prints a Markdown table: the norm of the mean last hidden state, the mean norm of the deviation from this mean, and
their ratio. It has raw states, features scaled by made-up observations (as in a run's first test), and features scaled
by the observations themselves (as after the first battles). For a probe, the observations are all situations with a
choice; for another environment, 300 made-up ones.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lolm_plugin import registry
from lolm_plugin.configuration import config_check, config_files
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.envs import probe_tasks
from lolm_plugin.llm.model import Backbone
from lolm_plugin.modules.agents.llm_agent import FEATURE_VIEWS, LLMAgent
from lolm_plugin.observations import build_layouts
from lolm_plugin.paths import BUNDLED

N_VIEWS, SEED = 300, 1  # number of made-up observations; seed of random weights


def agent(env: str, map_name: str, llm: dict[str, Any], style: str) -> LLMAgent:
    """Build the untrained policy of ``lolm_mappo_smol`` for a map, with these ``llm`` settings and prompt style."""
    host_dir = BUNDLED / "config"
    updates = {"env_args": {"map_name": map_name}, "llm": llm, "prompt": {"style": style}}
    config = config_check.apply_updates(config_files.resolve("lolm_mappo_smol", env, host_dir), updates, host_dir)
    config_check.check(config)
    n_agents, n_actions = registry.load(registry.MAP_SIZES[env])(config["env_args"])
    layout = build_layouts(env, config["env_args"], n_agents, n_actions, config["layout"]).observation
    backbone = Backbone(config["llm"], config["lora"], SEED, device="cpu")
    return LLMAgent(build_prompter(config["llm"], config["prompt"], layout), backbone, config["head"], SEED)


def views(policy: LLMAgent, env: str, map_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the observations to measure: obs [n, obs_size], available bool [n, n_actions], agent int64 [n]."""
    if env != "probe":
        obs, available, agents = policy.prompter.writer.sample(FEATURE_VIEWS + N_VIEWS)
        return obs[FEATURE_VIEWS:], available[FEATURE_VIEWS:], agents[FEATURE_VIEWS:]
    table = probe_tasks.table(map_name)
    choice = np.flatnonzero(table.available.sum(-1) > 1)
    available = torch.from_numpy(table.available[choice] > 0)
    return torch.from_numpy(table.obs[choice]), available, torch.zeros(len(choice), dtype=torch.int64)


def spread(states: Tensor) -> tuple[float, float, float]:
    """Return the norm of the mean of ``states`` [n, width], the mean norm of the deviation, and their ratio."""
    mean = states.mean(0)
    norm, deviation = mean.norm().item(), (states - mean).norm(dim=1).mean().item()
    return norm, deviation, deviation / norm if norm else math.inf


@torch.no_grad()
def measure(policy: LLMAgent, env: str, map_name: str) -> dict[str, tuple[float, float, float]]:
    """Return the ``spread`` of raw states and of both kinds of scaled features, by name."""
    prompts, row = policy.prompts(*views(policy, env, map_name))
    states = policy.read(prompts, reference=True)[row]
    hidden = states.last_states
    policy.measure_features()
    found = {"raw": spread(hidden), "scaled by made-up observations": spread(policy.head.normaliser(hidden))}
    policy.measure_collected(states)
    return found | {"scaled by these observations": spread(policy.head.normaliser(hidden))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=("probe", "smax"), default="probe")
    parser.add_argument("--map", default="retreat")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--num-layers", type=int, help="use only the first N layers [4; all of a tiny model]")
    parser.add_argument("--style", choices=tuple(registry.PROMPT_STYLES), default="terse")
    options = parser.parse_args(arguments)
    layers = options.num_layers or (None if options.model.startswith("tiny") else 4)
    policy = agent(options.env, options.map, {"model": options.model, "num_layers": layers}, options.style)
    print(f"{options.model}, {layers or 'all'} layers, {options.env} {options.map}, {options.style} prompts\n")
    print("| last hidden states | norm of the mean | mean norm of the deviation | share |\n|---|---|---|---|")
    for name, (mean, deviation, share) in measure(policy, options.env, options.map).items():
        print(f"| {name} | {mean:.2f} | {deviation:.2f} | {f'{share:.1%}' if share < 10 else 'over 1000%'} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
