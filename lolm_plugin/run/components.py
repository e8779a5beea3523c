"""Build the components of a run (batch, controller, learner) from a host's registries."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lolm_plugin.host import Host
from lolm_plugin.map_batches import MapBatches
from lolm_plugin.tracking.series import GREEDY
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
    held_out: Any = None  # ``many_maps.HeldOut``: the maps of ``test_maps``
    keeper: Keeper | None = None  # records the first battles of each test

    def close(self) -> None:
        """Close all environments."""
        try:
            self.runner.close_env()
        finally:
            if self.held_out is not None:
                self.held_out.runner.close_env()


class RenamedTestLogger:
    """Logger of a test that is not the usual one: replaces the prefix ``test_`` of names, and drops other statistics.

    Runners of both hosts log every test as ``test_X``.
    """

    def __init__(self, logger: Any, prefix: str) -> None:
        self.logger, self.prefix = logger, prefix

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)

    def log_stat(self, key: str, value: Any, t: int, to_sacred: bool = True) -> None:
        """Log ``value`` at environment step ``t``."""
        if key.startswith(GREEDY):
            self.logger.log_stat(self.prefix + key.removeprefix(GREEDY), value, t, to_sacred)


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


@dataclass
class MapSetup:
    """Batches and controllers of one map: the batch's fields, their groups and the configuration with its sizes."""

    args: Any
    scheme: dict[str, Any]
    groups: dict[str, int]
    preprocess: dict[str, Any]
    complete: Any  # the scheme with the fields that the host derives, without those of a controller
    build_batch: Callable[[int], Any]
    build_mac: Callable[[Any], Any]

    def set_up(self, runner: Any, mac: Any) -> None:
        """Give a runner its controller, which adds fields that it records during a rollout."""
        self.scheme |= getattr(mac, "fields", {})
        runner.setup(scheme=self.scheme, groups=self.groups, preprocess=self.preprocess, mac=mac)


def map_setup(host: Host, args: Namespace, runner: Any) -> MapSetup:
    """Read the sizes of a runner's environments. Sets ``n_agents``, ``n_actions`` and ``state_shape`` in ``args``."""
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

    return MapSetup(args, scheme, groups, preprocess, complete, build_batch, build_mac)


def make_learner(host: Host, mac: Any, setup: MapSetup, logger: Any) -> Any:
    """Build the learner of a controller."""
    return host.find("learner", setup.args.learner)(mac, setup.complete, logger, setup.args)


def assemble(host: Host, args: Namespace, logger: Any, runner: Any) -> RunComponents:
    """Build controller and learner for the environments of ``runner``.

    Sets ``n_agents``, ``n_actions`` and ``state_shape`` in ``args``.
    """
    setup = map_setup(host, args, runner)
    mac = setup.build_mac(args)
    setup.set_up(runner, mac)
    learner = make_learner(host, mac, setup, logger)
    if args.use_cuda:
        learner.cuda()
    return RunComponents(args, logger, runner, learner, setup.build_batch, setup.build_mac)


def play(components: RunComponents) -> Any:
    """Play ``batch_size_run`` training episodes; return them as a batch, cut to the longest episode."""
    batch = components.runner.run(test_mode=False)
    return batch if isinstance(batch, MapBatches) else batch[:, : int(batch.max_t_filled())]
