"""The base class of all runners: sizes of batches, statistics of episodes, the end of an evaluation."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.protocols import Mac
from lolm_plugin.runners.episode_stats import EpisodeStats


class HostInterface(Protocol):
    """The part of a host that a runner needs; runners do not import hosts."""

    @property
    def EpisodeBatch(self) -> Callable[..., Any]:
        """The class of the batches that controllers and learners take."""

    @property
    def env_maker(self) -> Callable[[str], Callable[..., Any]]:
        """Name of an environment -> its constructor ``(**env_args) -> env``, which can be sent to another process."""


class Runner:
    """Play episodes with a controller and return them as a batch; subclasses implement ``play``."""

    episode_limit: int

    def __init__(self, args: Namespace, logger: Any, batch_class: Callable[..., Any]) -> None:
        self.args = args
        self.batch_size = args.batch_size_run
        self.stats = EpisodeStats(args, logger)
        self.t_env = 0
        self._batch_class = batch_class
        self._evaluates = getattr(args, "evaluate", False)
        # Configurations of the host's own algorithms lack this key: None is PyMARL's rule.
        self._bootstrap = getattr(args, "bootstrap_time_limit", None)
        self._warned_of_two_ends = False
        self._evaluated: Any = None  # the last batch of a finished evaluation

    @property
    def logger(self) -> Any:
        """The logger of the statistics; the loop replaces it during a sampled test."""
        return self.stats.logger

    @logger.setter
    def logger(self, logger: Any) -> None:
        self.stats.logger = logger

    @property
    def log_train_stats_t(self) -> int:
        """The environment step at which training statistics were logged last."""
        return self.stats.log_train_stats_t

    @log_train_stats_t.setter
    def log_train_stats_t(self, t_env: int) -> None:
        self.stats.log_train_stats_t = t_env

    def setup(self, scheme: dict, groups: dict, preprocess: dict, mac: Mac) -> None:
        """Set the layout of the batches and the controller that acts; called once, before the first ``run``."""
        self.mac = mac
        self.new_batch = partial(
            self._batch_class,
            scheme,
            groups,
            self.batch_size,
            self.episode_limit + 1,
            preprocess=preprocess,
            device=self.args.device,
        )

    def run(self, test_mode: bool = False) -> Any:
        """Play ``batch_size_run`` episodes and return the batch. Test episodes do not count as environment steps.

        The last batch of a test is played only as far as ``test_nepisode`` episodes are reached; its other rows stay
        empty. With ``evaluate=True`` EPyMARL's loop asks for ``test_nepisode`` runs, not episodes: once the test is
        complete, its last batch is returned and nothing is played.
        """
        if self._evaluated is not None:
            return self._evaluated
        batch = self.play(test_mode)
        self._evaluated = batch if self._evaluates and test_mode and not self.stats.tested else None
        return batch

    def begin_test(self) -> None:
        """Start a new test, also after a finished evaluation."""
        self.stats.begin_test()
        self._evaluated = None

    def episodes(self, test_mode: bool) -> int:
        """Return how many episodes the next batch has: fewer than ``batch_size_run`` in a test's last batch, maybe."""
        return min(self.batch_size, self.args.test_nepisode - self.stats.tested) if test_mode else self.batch_size

    def play(self, test_mode: bool) -> Any:
        """Play the episodes of one ``run``."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, besides ``t_env``, to continue the same statistics; JSON."""
        return self.stats.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.stats.load_state(state)

    def stored_end(self, terminated: Any, truncated: Any, info: Mapping[str, Any]) -> Any:
        """Return whether a step is stored as terminated, so that its target has no value of the next state.

        ``terminated``, ``truncated`` and the values of ``info`` are bools, or bool ``[n_envs]`` each. PyMARL's rule
        (``bootstrap_time_limit=null``) stores every end as terminated unless ``info["episode_limit"]`` marks a time
        limit. With True no truncated episode is stored as terminated. The learner applies False.
        """
        over = np.logical_or(terminated, truncated)
        if self._bootstrap and not self._warned_of_two_ends and np.any(np.logical_and(terminated, truncated)):
            self._warned_of_two_ends = True
            self.logger.console_logger.warning(
                "An episode of env=%s was over by its rules and by the clock in the same step, and is not "
                "bootstrapped. Where the task calls its own clock an end (level-based foraging and the warehouse do), "
                "bootstrap_time_limit=True takes effect with env_args.time_limit=%d, one step less.",
                self.args.env,
                self.episode_limit - 1,
            )
        ended = terminated if self._bootstrap else over
        return np.logical_and(ended, np.logical_not(info.get("episode_limit", False)))

    def check_agents(self, shown: Mapping[str, Any], episode: int, t: int) -> None:
        """Raise ConfigError unless step ``t`` of an environment shows every agent, as the host's batches need."""
        observed, agents = len(shown["obs"]), len(shown["avail_actions"])
        if observed == agents:
            return
        key = "key" if "key" in self.args.env_args else "map_name"
        raise ConfigError(
            f"env_args.{key}={self.args.env_args.get(key)} shows {observed} of its {agents} agents at step {t} of "
            f"environment {episode}: agents leave this task before its end, which this host's wrapper "
            f"(env={self.args.env}) cannot play; set --epymarl=none for the plugin's own, or another task."
        )

    def check_masks(self, avail_actions: Any, episodes: Sequence[int], t: int) -> None:
        """Raise ConfigError if an agent of a running episode has no available action.

        ``avail_actions`` ``[episodes, agents, actions]`` is seen at step ``t`` (the first is 0); ``episodes`` are the
        numbers of their environments. No such action could be sent: action 0 would be carried out, or fail elsewhere.
        """
        without = ~np.asarray(avail_actions).astype(bool).any(-1)
        if not without.any():
            return
        row, agent = np.argwhere(without)[0]
        raise ConfigError(
            f"Agent {agent} has no available action at step {t} of environment {episodes[row]} (env={self.args.env}), "
            "whose episode is not over: its whole action mask is 0; correct get_avail_actions of the environment, "
            "where a dead agent needs an action such as no-op."
        )

    def train_stats(self) -> dict[str, float]:
        """Return what is logged along with the statistics of training episodes."""
        selector: Any = getattr(self.mac, "action_selector", None)
        return {"epsilon": selector.epsilon} if hasattr(selector, "epsilon") else {}

    def zero_return(self) -> float | np.ndarray:
        """Return the return of an episode without steps; float ``[n_agents]`` with ``common_reward=False``."""
        return 0.0 if self.args.common_reward else np.zeros(self.args.n_agents)

    def finish(self, returns: Sequence, lengths: Sequence[int], infos: Sequence[Mapping], test_mode: bool) -> None:
        """Count the steps of the episodes of one ``run`` and log what is due; see ``EpisodeStats.record``."""
        if not test_mode:
            self.t_env += sum(lengths)
        if self.stats.record(returns, lengths, infos, self.t_env, test_mode):
            for name, value in self.train_stats().items():
                self.logger.log_stat(name, value, self.t_env)
