"""What the episode runner and the parallel runner have in common."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lolm_plugin.host.bundled.episode_batch import EpisodeBatch
from lolm_plugin.runners.episode_stats import EpisodeStats


class Runner:
    """Plays episodes with a controller and returns them as a batch."""

    episode_limit: int

    def __init__(self, args: Namespace, logger: Any) -> None:
        self.args = args
        self.logger = logger
        self.batch_size = args.batch_size_run
        self.stats = EpisodeStats(args, logger, self.batch_size)
        self.t_env = 0

    @property
    def log_train_stats_t(self) -> int:
        """The environment step at which training statistics were logged last."""
        return self.stats.log_train_stats_t

    @log_train_stats_t.setter
    def log_train_stats_t(self, t_env: int) -> None:
        self.stats.log_train_stats_t = t_env

    def setup(self, scheme: dict, groups: dict, preprocess: dict, mac: Any) -> None:
        """Says what batches look like and which controller acts; called once, before the first ``run``."""
        self.mac = mac
        self.new_batch = partial(
            EpisodeBatch,
            scheme,
            groups,
            self.batch_size,
            self.episode_limit + 1,
            preprocess=preprocess,
            device=self.args.device,
        )

    def _zero_return(self) -> float | np.ndarray:
        return 0.0 if self.args.common_reward else np.zeros(self.args.n_agents)

    def _finish(self, returns: Sequence, lengths: Sequence[int], infos: Sequence[Mapping], test_mode: bool) -> None:
        if not test_mode:
            self.t_env += sum(lengths)
        if self.stats.record(returns, lengths, infos, self.t_env, test_mode):
            selector = getattr(self.mac, "action_selector", None)
            if hasattr(selector, "epsilon"):
                self.logger.log_stat("epsilon", selector.epsilon, self.t_env)


def observe(env: Any) -> dict[str, Any]:
    """What an environment shows before a step: ``state [state]``, ``avail_actions`` and ``obs [agents, ...]``."""
    return {"state": env.get_state(), "avail_actions": env.get_avail_actions(), "obs": env.get_obs()}
