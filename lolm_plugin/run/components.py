"""Build the components of a run (batch, controller, learner) from a host's registries."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lolm_plugin.host import Host
from lolm_plugin.watch.keeper import Keeper


@dataclass
class RunComponents:
    """Objects that a run plays and learns with.

    ``build_batch(n)`` returns an empty batch of ``n`` episodes. ``build_mac(args)`` returns another controller for the
    same environments, of the class ``args.mac``.
    """

    args: Namespace
    logger: Any
    runner: Any
    learner: Any
    build_batch: Callable[[int], Any]
    build_mac: Callable[[Any], Any]
    keeper: Keeper | None = None  # records the first battles of each test


class OneHot:
    """One-hot encoding of a batch field: integers ``[..., 1]`` -> float32 ``[..., size]``. The host calls it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def transform(self, tensor: torch.Tensor) -> torch.Tensor:
        """Encode ``tensor`` ``[..., 1]``."""
        return torch.nn.functional.one_hot(tensor.squeeze(-1).long(), self.size).float()

    def infer_output_info(self, vshape: tuple[int, ...], dtype: torch.dtype) -> tuple[tuple[int], torch.dtype]:
        """Return the shape and dtype of one encoded entry."""
        return (self.size,), torch.float32


def assemble(host: Host, args: Namespace, logger: Any, runner: Any) -> RunComponents:
    """Build controller and learner for the environments of ``runner``.

    Sets ``n_agents``, ``n_actions`` and ``state_shape`` in ``args``.
    """
    info = runner.get_env_info()
    args.n_agents = info["n_agents"]
    args.n_actions = info["n_actions"]
    args.state_shape = info["state_shape"]

    scheme = {
        "state": {"vshape": info["state_shape"]},
        "obs": {"vshape": info["obs_shape"], "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (info["n_actions"],), "group": "agents", "dtype": torch.int},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
        "reward": {"vshape": (1 if args.common_reward else args.n_agents,)},
    }
    groups = {"agents": args.n_agents}
    preprocess = {"actions": ("actions_onehot", [OneHot(args.n_actions)])}

    def build_batch(episodes: int) -> Any:
        device = "cpu" if args.buffer_cpu_only else args.device
        length = info["episode_limit"] + 1
        return host.EpisodeBatch(scheme, groups, episodes, length, preprocess=preprocess, device=device)

    complete = build_batch(1).scheme  # including the fields that the host derives

    def build_mac(args: Any) -> Any:
        return host.find("mac", args.mac)(complete, groups, args)

    mac = build_mac(args)
    scheme |= getattr(mac, "fields", {})  # fields that our controllers record during a rollout
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=mac)
    learner = host.find("learner", args.learner)(mac, complete, logger, args)
    if args.use_cuda:
        learner.cuda()
    return RunComponents(args, logger, runner, learner, build_batch, build_mac)


def play(components: RunComponents) -> Any:
    """Play ``batch_size_run`` training episodes; return them as a batch, cut to the longest episode."""
    batch = components.runner.run(test_mode=False)
    return batch[:, : int(batch.max_t_filled())]
