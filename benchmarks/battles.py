"""Real SMAX battles, played to the end with random available actions, and batches with some of their steps."""

import functools
import logging
from argparse import Namespace
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lolm_plugin.configuration import config_files
from lolm_plugin.host import open_host, register
from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.observations import build_layouts
from lolm_plugin.paths import BUNDLED
from lolm_plugin.randomness import keyed_generator
from lolm_plugin.run.components import RunComponents, assemble


def components(
    algorithm: str, map_name: str, episodes: int, seed: int, changes: Mapping[str, Any] = MappingProxyType({})
) -> RunComponents:
    """Build runner, controller and learner of a training run with ``changes``, without its files and log."""
    host = open_host(None)
    register(host)
    run = {"env_args": {"map_name": map_name, "seed": seed}, "seed": seed, "use_cuda": False}
    sizes = dict.fromkeys(("batch_size_run", "batch_size", "buffer_size"), episodes)
    config = config_files.merge(config_files.resolve(algorithm, "smax", BUNDLED / "config").config, changes)
    args = Namespace(**config_files.merge(config, {**run, **sizes}), device="cpu")
    logger: Any = SimpleNamespace(log_stat=lambda *_: None, console_logger=logging.getLogger(__name__))
    return assemble(host, args, logger, host.registries["runner"]["vector"](args=args, logger=logger))


@functools.lru_cache(maxsize=4)
def play(map_name: str, episodes: int, seed: int) -> EpisodeBatch:
    """Play ``episodes`` battles to the end. The same arguments give the same battles."""
    runner = components("updet_mappo", map_name, episodes, seed).runner
    runner.mac = _RandomActions(seed)
    whole = runner.run()
    runner.close_env()
    return whole[:, : int(whole.max_t_filled())]


class _RandomActions:
    """A controller that chooses random available actions."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def init_hidden(self, batch_size: int) -> None:
        """Do nothing: there is no state between steps."""

    def select_actions(self, batch: Any, t_ep: int, t_env: int, bs: list[int], test_mode: bool) -> Tensor:
        """Return int64 [len(bs), agents]."""
        available = batch["avail_actions"][bs, t_ep]
        draw = keyed_generator(self._seed, "benchmark", t_ep).random(batch["avail_actions"][:, t_ep].shape)
        return (available * torch.from_numpy(draw)[bs]).argmax(-1)


def some_steps(whole: EpisodeBatch, steps: int) -> EpisodeBatch:
    """Return a batch with ``steps`` steps, spread evenly over the battles, in the form that a learner gets.

    If ``steps`` is 1, it is the step whose share of agents with a choice is closest to the average over all steps.
    All episodes keep the same steps; a shorter episode is padded after its end. A kept step has the summed rewards,
    and the end, of all steps until the next kept step. The final step of an episode follows its last kept step.
    """
    lengths = valid(whole).sum(1, keepdim=True)
    kept = _kept_steps(whole, steps)
    index = torch.minimum(torch.cat([kept, lengths.max()[None]]), lengths)  # [episodes, steps + 1]
    filled = torch.arange(index.shape[1]) <= (kept < lengths).sum(1, keepdim=True)
    episode = torch.arange(whole.batch_size)[:, None]
    fields = {name: info for name, info in whole.scheme.items() if name not in ("filled", "actions_onehot")}
    chosen = EpisodeBatch(fields, whole.groups, whole.batch_size, index.shape[1])
    tensors = chosen.data.transition_data
    for name in ("state", "obs", "actions", "avail_actions"):
        tensors[name][:] = whole[name][episode, index] * filled.view(*filled.shape, *[1] * (whole[name].ndim - 2))
    for name in ("reward", "terminated"):
        before = torch.cat([torch.zeros_like(whole[name][:, :1]), whole[name].cumsum(1)], 1)[episode, index]
        tensors[name][:, :-1] = before[:, 1:] - before[:, :-1]
    tensors["filled"][:] = filled[..., None]
    return chosen


def scheme(args: Any) -> dict[str, dict[str, Any]]:
    """Return the scheme of a host's batch for a SMAX run."""
    layouts = build_layouts("smax", args.env_args, args.n_agents, args.n_actions, args.layout)
    return {
        "state": {"vshape": layouts.state.size},
        "obs": {"vshape": layouts.observation.size, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (args.n_actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }


def valid(batch: EpisodeBatch) -> Tensor:
    """Return the mask of steps that have a next step: bool [episodes, time - 1]."""
    return (batch["filled"][:, :-1] * batch["filled"][:, 1:]).squeeze(-1) > 0


def deciding(batch: EpisodeBatch) -> Tensor:
    """Return the mask of decisions, where an agent has several available actions: bool [episodes, time - 1, agents]."""
    return ((batch["avail_actions"][:, :-1] > 0).sum(-1) > 1) & valid(batch).unsqueeze(-1)


def _kept_steps(whole: EpisodeBatch, steps: int) -> Tensor:
    """Return the indices of the steps to keep: int64 [at most ``steps``]."""
    longest = whole.max_seq_length - 1
    if steps == 1:
        share = deciding(whole).float().mean((0, 2))
        return (share - share.mean()).abs().argmin()[None]
    steps = min(steps, longest)
    return torch.unique(((torch.arange(steps) + 0.5) * longest / steps).long())
