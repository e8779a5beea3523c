"""Base class of all runners: batch sizes, episode statistics, end of an evaluation, checks of an environment."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from lolm_plugin.errors import ConfigError
from lolm_plugin.protocols import Mac
from lolm_plugin.runners.episode_stats import EpisodeStats


class HostInterface(Protocol):
    """The part of a host (EPyMARL or the bundled one) that a runner needs. Runners do not import hosts."""

    @property
    def EpisodeBatch(self) -> Callable[..., Any]:
        """Class of the batches that controllers and learners use."""

    @property
    def env_maker(self) -> Callable[[str], Callable[..., Any]]:
        """Function from an environment's name to its picklable constructor ``(**env_args) -> env``."""


class Runner:
    """Base class of runners, which play episodes with a controller and return them as a batch.

    A subclass implements ``play``, ``get_env_info`` and ``close_env``, and sets ``episode_limit``. Its constructor
    takes ``(args, logger, host)``. ``play`` calls ``finish`` and returns the batch. ``LockstepRunner`` has a complete
    example. Register the class in ``registry.ENTRIES["runner"]`` and set ``runner`` to its name.

    Args:
        args: the configuration.
        logger: the host's logger.
        batch_class: ``host.EpisodeBatch``.
    """

    episode_limit: int  # longest episode, in environment steps

    def __init__(self, args: Namespace, logger: Any, batch_class: Callable[..., Any]) -> None:
        self.args = args
        self.batch_size = args.batch_size_run
        self.train_episodes = args.batch_size_run  # of the next training batch; fewer if it has episodes of other maps
        self.stats = EpisodeStats(args, logger)
        self.t_env = 0
        self.last_infos: Sequence[Mapping] = []  # the last ``info`` of each episode of the last batch
        self._batch_class = batch_class
        self._evaluates = getattr(args, "evaluate", False)
        # Configurations of EPyMARL's algorithms lack this key. None is PyMARL's rule.
        self._bootstrap = getattr(args, "bootstrap_time_limit", None)
        self._warned_of_two_ends = False
        self._evaluated: Any = None  # the last batch of a finished evaluation

    @property
    def logger(self) -> Any:
        """Logger of the statistics. The training loop replaces it during a sampled test."""
        return self.stats.logger

    @logger.setter
    def logger(self, logger: Any) -> None:
        self.stats.logger = logger

    @property
    def log_train_stats_t(self) -> int:
        """Environment step at which training statistics were last logged."""
        return self.stats.log_train_stats_t

    @log_train_stats_t.setter
    def log_train_stats_t(self, t_env: int) -> None:
        self.stats.log_train_stats_t = t_env

    def setup(self, scheme: dict, groups: dict, preprocess: dict, mac: Mac) -> None:
        """Set the batch layout and the controller. Called once, before the first ``run``.

        Args:
            scheme: fields of the batch: name -> ``vshape`` and more.
            groups: sizes of the scheme's groups: ``agents``.
            preprocess: fields that are computed from others, such as one-hot actions.
            mac: the controller.
        """
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

        The last batch of a test has only the episodes that ``test_nepisode`` still needs; its other entries are empty.
        With ``evaluate=True`` EPyMARL's loop calls this ``test_nepisode`` times, although one call plays many episodes.
        After the test is complete, further calls return its last batch and play nothing.
        """
        if self._evaluated is not None:
            return self._evaluated
        batch = self.play(test_mode)
        self._evaluated = batch if self._evaluates and test_mode and not self.stats.tested else None
        return batch

    def begin_test(self) -> None:
        """Start a new test, even after a completed evaluation."""
        self.stats.begin_test()
        self._evaluated = None

    def episodes(self, test_mode: bool) -> int:
        """Return the number of episodes in the next batch. The last batch of a test may have fewer."""
        return min(self.batch_size, self.args.test_nepisode - self.stats.tested) if test_mode else self.train_episodes

    def play(self, test_mode: bool) -> Any:
        """Play ``episodes(test_mode)`` episodes, call ``finish``, and return the batch."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return the statistics, as JSON, from which a resumed run continues (``t_env`` is saved elsewhere)."""
        return self.stats.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.stats.load_state(state)

    def stored_terminated(self, terminated: Any, truncated: Any, info: Mapping[str, Any]) -> Any:
        """Return True if a step is stored as terminated: its target then has no bootstrapped value.

        The result depends on ``bootstrap_time_limit``. With null (PyMARL's rule) every end is stored as terminated
        unless ``info["episode_limit"]`` marks a time limit. With True no truncated episode is stored as terminated.
        False is treated like null here, and applied by the learner.

        Args:
            terminated: bool, or bool ``[n_envs]``.
            truncated: the same type.
            info: name -> value of the same type.
        """
        over = np.logical_or(terminated, truncated)
        if self._bootstrap and not self._warned_of_two_ends and np.any(np.logical_and(terminated, truncated)):
            self._warned_of_two_ends = True
            self.logger.console_logger.warning(
                "An episode of env=%s was terminated and truncated in the same step, so it is not bootstrapped. "
                "Some tasks report their time limit as terminated (level-based foraging and the warehouse do); for "
                "them, bootstrap_time_limit=True takes effect with env_args.time_limit=%d, one step less.",
                self.args.env,
                self.episode_limit - 1,
            )
        ended = terminated if self._bootstrap else over
        return np.logical_and(ended, np.logical_not(info.get("episode_limit", False)))

    def check_agents(self, shown: Mapping[str, Any], episode: int, t: int) -> None:
        """Raise ConfigError unless step ``t`` of an environment has observations of all agents."""
        observed, agents = len(shown["obs"]), len(shown["avail_actions"])
        if observed == agents:
            return
        key = "key" if "key" in self.args.env_args else "map_name"
        raise ConfigError(
            f"env_args.{key}={self.args.env_args.get(key)} shows {observed} of its {agents} agents at step {t} of "
            f"environment {episode}: agents leave this task early, and EPyMARL's wrapper (env={self.args.env}) cannot "
            f"play such a task; set --epymarl=none to use the plugin's wrapper, or choose another task."
        )

    def check_masks(self, avail_actions: Any, episodes: Sequence[int], t: int) -> None:
        """Raise ConfigError if an agent of a running episode has no available action.

        Without this check the agent would take action 0, or the run would fail later with a less clear error.

        Args:
            avail_actions: ``[episodes, agents, actions]``.
            episodes: indices of their environments.
            t: the step, counted from 0.
        """
        without = ~np.asarray(avail_actions).astype(bool).any(-1)
        if not without.any():
            return
        row, agent = np.argwhere(without)[0]
        raise ConfigError(
            f"Agent {agent} has no available action at step {t} of environment {episodes[row]} (env={self.args.env}), "
            "whose episode is not over: its action mask is all 0; correct get_avail_actions of the environment (a "
            "dead agent needs an action such as no-op)."
        )

    def train_stats(self) -> dict[str, float]:
        """Return further values to log with the statistics of training episodes."""
        selector: Any = getattr(self.mac, "action_selector", None)
        return {"epsilon": selector.epsilon} if hasattr(selector, "epsilon") else {}

    def zero_return(self) -> float | np.ndarray:
        """Return a zero episode return; float ``[n_agents]`` with ``common_reward=False``."""
        return 0.0 if self.args.common_reward else np.zeros(self.args.n_agents)

    def finish(self, returns: Sequence, lengths: Sequence[int], infos: Sequence[Mapping], test_mode: bool) -> None:
        """Count the environment steps of one ``run`` and record its episodes; see ``EpisodeStats.record``."""
        self.last_infos = infos
        if not test_mode:
            self.t_env += sum(lengths)
        if self.stats.record(returns, lengths, infos, self.t_env, test_mode):
            for name, value in self.train_stats().items():
                self.logger.log_stat(name, value, self.t_env)
