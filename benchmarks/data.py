"""Real battles: SMAX played by random available actions, whole, and a batch of some of their steps."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.randomness import keyed_generator, keyed_seeds


@dataclass(frozen=True)
class Battles:
    """Every step of every episode. Arrays are [time, episodes, ...]; the first three have one more, last view."""

    obs: np.ndarray
    state: np.ndarray
    avail_actions: np.ndarray
    actions: np.ndarray
    reward: np.ndarray
    lengths: np.ndarray  # int [episodes]: steps until its end
    timeout: np.ndarray  # bool [episodes]: cut off by the clock


@functools.lru_cache(maxsize=4)
def play(map_name: str, episodes: int, seed: int) -> Battles:
    """``episodes`` battles from random seeds, each to its end; asked again, the same ones."""
    from lolm_plugin.envs.smax import SMAXVectorEnv

    env = SMAXVectorEnv(map_name, episodes)
    env.reset(keyed_seeds(seed, "benchmark", count=episodes))
    views, taken, rewards = [(env.obs, env.state, env.avail_actions)], [], []
    lengths, timeout, over = np.zeros(episodes, int), np.zeros(episodes, bool), np.zeros(episodes, bool)
    while not over.all():
        draw = keyed_generator(seed, "benchmark", len(taken)).random(env.avail_actions.shape)
        taken.append((env.avail_actions * draw).argmax(-1))
        transition = env.step(taken[-1])
        rewards.append(transition.reward)
        views.append((env.obs, env.state, env.avail_actions))
        lengths[~over] += 1
        timeout[~over] |= transition.info["timeout"][~over] > 0
        over |= transition.over
    env.close()
    return Battles(*map(np.stack, zip(*views, strict=True)), np.stack(taken), np.stack(rewards), lengths, timeout)


def batch(battles: Battles, steps: int, episodes: int | None = None) -> EpisodeBatch:
    """What a learner would get, had the battles had only ``steps`` steps, spread evenly over the longest one.

    A single step is the one in which as large a share of the agents has a choice as in the whole battles.

    All episodes keep the same columns of time: a shorter one is padding from its end on, as in a real batch.
    The reward of a step is the sum until the next one kept, and after an episode's last step stands its last view.
    """
    episodes = episodes or len(battles.lengths)
    longest = int(battles.lengths[:episodes].max())
    columns = _columns(battles, steps, episodes, longest)
    sizes = {"agents": battles.obs.shape[2], "obs": battles.obs.shape[3], "state": battles.state.shape[2]}
    chosen = empty(sizes | {"actions": battles.avail_actions.shape[3]}, episodes, len(columns) + 1)
    for episode in range(episodes):
        end = battles.lengths[episode]
        kept = columns[columns < end]
        with_last = np.append(kept, end)
        views = {name: getattr(battles, name)[with_last, episode] for name in ("obs", "state", "avail_actions")}
        chosen.update({name: torch.from_numpy(view)[None] for name, view in views.items()}, episode, _to(with_last))
        if not len(kept):
            continue
        terminated = np.zeros(len(kept), np.uint8)
        terminated[-1] = not battles.timeout[episode]
        steps_taken = {
            "actions": battles.actions[kept, episode][..., None],
            "reward": np.add.reduceat(battles.reward[:end, episode], kept)[:, None],
            "terminated": terminated[:, None],
        }
        tensors = {name: torch.from_numpy(value)[None] for name, value in steps_taken.items()}
        chosen.update(tensors, episode, _to(kept), mark_filled=False)
    return chosen


def scheme(sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The fields of a host's batch; ``sizes`` has agents, obs, state and actions."""
    return {
        "state": {"vshape": sizes["state"]},
        "obs": {"vshape": sizes["obs"], "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (sizes["actions"],), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
        "behaviour_log_probs": {"vshape": (1,), "group": "agents"},
    }


def empty(sizes: Mapping[str, int], episodes: int, time: int) -> EpisodeBatch:
    """A batch of zeros."""
    return EpisodeBatch(scheme(sizes), {"agents": sizes["agents"]}, episodes, time)


def valid(chosen: EpisodeBatch) -> Tensor:
    """bool [episodes, time - 1]: steps that led somewhere."""
    return (chosen["filled"][:, :-1] * chosen["filled"][:, 1:]).squeeze(-1) > 0


def deciding(chosen: EpisodeBatch) -> Tensor:
    """bool [episodes, time - 1, agents]: agents with a choice; the dead and padding have none."""
    return ((chosen["avail_actions"][:, :-1] > 0).sum(-1) > 1) & valid(chosen).unsqueeze(-1)


def fullest(chosen: EpisodeBatch) -> EpisodeBatch:
    """The one episode with the most decisions."""
    episode = int(deciding(chosen).sum((1, 2)).argmax())
    return chosen[episode : episode + 1]


def save(chosen: EpisodeBatch, path: Path) -> None:
    """Keep a batch for a child process."""
    torch.save(chosen.data.transition_data, path)


def load(path: Path, device: str) -> EpisodeBatch:
    """What ``save`` kept."""
    tensors = torch.load(path, weights_only=True)
    episodes, time, agents, actions = tensors["avail_actions"].shape
    sizes = {"agents": agents, "obs": tensors["obs"].shape[-1], "state": tensors["state"].shape[-1]}
    loaded = empty(sizes | {"actions": actions}, episodes, time)
    loaded.data.transition_data.update(tensors)
    loaded.to(device)
    return loaded


def _columns(battles: Battles, steps: int, episodes: int, longest: int) -> np.ndarray:
    """Which steps of time are kept: int [at most ``steps``]."""
    if steps == 1:
        running = np.arange(longest)[:, None] < battles.lengths[:episodes]
        choices = (battles.avail_actions[:longest, :episodes].sum(-1) > 1) & running[..., None]
        share = choices.mean((1, 2))
        return np.abs(share - share.mean()).argmin(keepdims=True)
    steps = min(steps, longest)
    return np.unique(((np.arange(steps) + 0.5) * longest / steps).astype(int))


def _to(kept: np.ndarray) -> slice:
    return slice(0, len(kept))
