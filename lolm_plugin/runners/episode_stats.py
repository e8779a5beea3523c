"""Statistics of finished episodes (returns, lengths, ``info``), logged at intervals by all runners."""

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NEVER = -1_000_000  # a step so early that the first training episodes are always logged

# Names that runners, controllers and learners log, and forms of the names of tests and imitations.
RESERVED = ("ep_length", "return", "total_return", "episode", "epsilon", "prompt_tokens")
RESERVED_FORMS = re.compile(r"(env|test|held_out|sampled|teacher|imitate)_.*|agent_\d+_return")


def env_name(key: str) -> str:
    """Return the metric name (without ``_mean``) of an ``info`` key: ``env_KEY`` if the key is reserved."""
    return f"env_{key}" if key in RESERVED or RESERVED_FORMS.fullmatch(key) else key


class _Tally:
    """Returns and summed statistics of training or test episodes since they were last logged."""

    def __init__(self) -> None:
        self.returns: list[float | np.ndarray] = []
        self.sums: Counter[str] = Counter()


class EpisodeStats:
    """Statistics of finished episodes, logged with the names and the timing of EPyMARL's runners.

    Each key ``k`` of an episode's ``info`` is logged as ``k_mean``: the sum over the episodes divided by their number.
    An absent key counts as 0. A reserved key (``env_name``), such as ``return``, is logged as ``env_k_mean``. A value
    that is not a number is left out. One warning per key reports either. Episode lengths are logged as
    ``ep_length_mean``, returns as ``return_mean`` and ``return_std``, or with ``common_reward=False`` as
    ``agent_<i>_return_*`` and ``total_return_*``. Test episodes have the prefix ``test_``.

    ``args`` needs ``common_reward``, ``test_nepisode``, ``runner_log_interval`` and, once something is logged,
    ``n_agents``.
    """

    def __init__(self, args: Namespace, logger: Any) -> None:
        self.args = args
        self.logger = logger
        self.log_train_stats_t = NEVER
        self._train = _Tally()
        self._test = _Tally()
        self._warned: set[str] = set()  # ``info`` keys with a warning

    @property
    def tested(self) -> int:
        """Number of episodes in the current test so far; 0 after ``test_nepisode`` episodes were logged."""
        return len(self._test.returns)

    def begin_test(self) -> None:
        """Drop the episodes of an incomplete test."""
        self._test = _Tally()

    def state(self) -> dict[str, Any]:
        """Return the training statistics that are not logged yet, as JSON. A test is repeated, so it is not saved."""
        returns = [np.asarray(value).tolist() for value in self._train.returns]
        return {"logged_t": self.log_train_stats_t, "returns": returns, "sums": dict(self._train.sums)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.log_train_stats_t = state["logged_t"]
        self._train = _Tally()
        self._train.returns = [np.array(value) if isinstance(value, list) else value for value in state["returns"]]
        self._train.sums.update(state["sums"])

    def record(
        self,
        returns: Sequence[float | np.ndarray],
        lengths: Sequence[int],
        infos: Sequence[Mapping[str, float]],
        t_env: int,
        test_mode: bool,
    ) -> bool:
        """Add the episodes of one ``run()``, and log if a test is complete or the log interval has passed.

        A test is logged after ``test_nepisode`` episodes, training episodes every ``runner_log_interval`` steps.

        Args:
            returns: a number for each episode, or float ``[n_agents]`` with ``common_reward=False``.
            lengths: number of environment steps of each episode.
            infos: the last ``info`` of each episode, in any order.
            t_env: environment steps so far, including these episodes.
            test_mode: True for episodes of a test.

        Returns:
            True if training statistics were logged.
        """
        tally = self._test if test_mode else self._train
        tally.returns.extend(returns)
        tally.sums["ep_length"] += sum(lengths)
        for info in infos:
            tally.sums.update(self._numbers(info))

        if test_mode:
            due = len(tally.returns) == self.args.test_nepisode
        else:
            due = t_env - self.log_train_stats_t >= self.args.runner_log_interval
        if not due:
            return False
        self._log(tally, t_env, "test_" if test_mode else "")
        if test_mode:
            self._test = _Tally()
        else:
            self._train = _Tally()
            self.log_train_stats_t = t_env
        return not test_mode

    def _numbers(self, info: Mapping[str, Any]) -> dict[str, float]:
        """Return the loggable values of an episode's ``info``, by metric name."""
        numbers = {}
        for key, value in info.items():
            name = env_name(key)
            if name != key:
                self._warn_once(key, f"is logged as {name}_mean, because {key}_mean is a reserved name")
            try:
                # As Python floats: sums of NumPy's float32 would differ from sums restored from a checkpoint.
                numbers[name] = float(value)
            except (TypeError, ValueError):
                self._warn_once(key, f"is not logged: its value is not a number ({type(value).__name__})")
        return numbers

    def _warn_once(self, key: str, what: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self.logger.console_logger.warning("%s in the environment's info %s.", key, what)

    def _log(self, tally: _Tally, t_env: int, prefix: str) -> None:
        returns = np.array(tally.returns, dtype=np.float64)
        if self.args.common_reward:
            columns = {"return": returns}
        else:
            columns = {f"agent_{i}_return": returns[:, i] for i in range(self.args.n_agents)}
            columns["total_return"] = returns.sum(axis=-1)
        for name, values in columns.items():
            self.logger.log_stat(f"{prefix}{name}_mean", float(values.mean()), t_env)
            self.logger.log_stat(f"{prefix}{name}_std", float(values.std()), t_env)
        for name, total in tally.sums.items():
            self.logger.log_stat(f"{prefix}{name}_mean", float(total / len(returns)), t_env)
