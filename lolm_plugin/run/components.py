"""The components of a run (buffer, controller, learner), built from a host's registries for a runner's environments."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lolm_plugin.host import Host


@dataclass
class RunComponents:
    """Everything one run plays and learns with.

    ``build_buffer(n)`` builds another buffer for ``n`` episodes, ``build_mac(args)`` another controller for the same
    episodes, of the class that ``args.mac`` names.
    """

    args: Namespace
    logger: Any
    runner: Any
    buffer: Any
    learner: Any
    build_buffer: Callable[[int], Any]
    build_mac: Callable[[Namespace], Any]


class OneHot:
    """One-hot encode a field of a batch: integers ``[..., 1]`` -> float32 ``[..., size]``. The host calls it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def transform(self, tensor: torch.Tensor) -> torch.Tensor:
        """Encode ``tensor`` ``[..., 1]``."""
        return torch.nn.functional.one_hot(tensor.squeeze(-1).long(), self.size).float()

    def infer_output_info(self, vshape: tuple[int, ...], dtype: torch.dtype) -> tuple[tuple[int], torch.dtype]:
        """Return the shape and dtype of one encoded entry."""
        return (self.size,), torch.float32


def assemble(host: Host, args: Namespace, logger: Any, runner: Any) -> RunComponents:
    """Build buffer, controller and learner for the environments of ``runner``, and write their sizes into ``args``."""
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

    def build_buffer(episodes: int) -> Any:
        return host.ReplayBuffer(
            scheme,
            groups,
            episodes,
            info["episode_limit"] + 1,
            preprocess=preprocess,
            device="cpu" if args.buffer_cpu_only else args.device,
        )

    def build_mac(args: Namespace) -> Any:
        return host.find("mac", args.mac)(buffer.scheme, groups, args)

    buffer = build_buffer(args.buffer_size)
    mac = build_mac(args)
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=mac)
    learner = host.find("learner", args.learner)(mac, buffer.scheme, logger, args)
    if args.use_cuda:
        learner.cuda()
    return RunComponents(args, logger, runner, buffer, learner, build_buffer, build_mac)


def play(parts: RunComponents) -> Any:
    """Play one ``run`` into the buffer; return the batch to learn from, or None while there are too few episodes."""
    args, buffer = parts.args, parts.buffer
    buffer.insert_episode_batch(parts.runner.run(test_mode=False))
    if not buffer.can_sample(args.batch_size):
        return None
    sample = buffer.sample(args.batch_size)
    sample = sample[:, : int(sample.max_t_filled())]
    if sample.device != args.device:
        sample.to(args.device)
    return sample
