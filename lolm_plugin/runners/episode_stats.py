"""Returns, lengths and ``info`` of finished episodes, summed up and logged when due.

Every runner shares this, so that all of them log the same names at the same times.
"""

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# So far in the past that the first training run is always logged.
NEVER = -1_000_000

# What runners, controllers and learners log by themselves, and the beginnings of names of tests and imitations.
RESERVED = ("ep_length", "return", "total_return", "episode", "epsilon", "prompt_tokens")
RESERVED_FORMS = re.compile(r"(env|test|sampled|teacher|imitate)_.*|agent_\d+_return")


def env_name(key: str) -> str:
    """The name of the series (without ``_mean``) of a key of an environment's ``info``: ``env_KEY`` where it is taken.

    Different keys have different names.
    """
    return f"env_{key}" if key in RESERVED or RESERVED_FORMS.fullmatch(key) else key


class _Tally:
    """Episodes of one kind (train or test) that have not been logged yet."""

    def __init__(self) -> None:
        self.returns: list[float | np.ndarray] = []
        self.sums: Counter[str] = Counter()


class EpisodeStats:
    """Bookkeeping of finished episodes, with the names and the timing of EPyMARL's runners.

    Each key ``k`` of an episode's ``info`` is logged as ``k_mean``: its sum over the episodes divided by
    their number, an absent key counting 0. A key whose name is taken (``env_name``), such as ``return``, is
    logged as ``env_k_mean``, and a value that is no number is left out; either is said once. Episode lengths
    are logged as ``ep_length_mean``, returns as ``return_mean`` and ``return_std``, or with
    ``common_reward=False`` as ``agent_<i>_return_*`` and ``total_return_*``. Test episodes have the prefix
    ``test_``.

    ``args`` needs ``common_reward``, ``test_nepisode``, ``runner_log_interval`` and, by the time something
    is logged, ``n_agents``.
    """

    def __init__(self, args: Namespace, logger: Any) -> None:
        self.args = args
        self.logger = logger
        self.log_train_stats_t = NEVER
        self._train = _Tally()
        self._test = _Tally()
        self._said: set[str] = set()  # keys of infos that a warning was about

    @property
    def tested(self) -> int:
        """Episodes of the current test so far; 0 once ``test_nepisode`` episodes were logged."""
        return len(self._test.returns)

    def begin_test(self) -> None:
        """Drop the episodes of a test that was not completed."""
        self._test = _Tally()

    def state(self) -> dict[str, Any]:
        """What is counted and not logged yet, as JSON; only of training, as tests are whole or repeated."""
        returns = [np.asarray(value).tolist() for value in self._train.returns]
        return {"logged_t": self.log_train_stats_t, "returns": returns, "sums": dict(self._train.sums)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state`` returned."""
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
        """Adds the episodes of one ``run()`` call and logs what is due.

        ``returns`` holds one number per episode, or one float array ``[n_agents]`` per episode with
        ``common_reward=False``; ``lengths`` are in environment steps; ``infos`` are the last ``info`` of the
        episodes, in any order; ``t_env`` already counts these episodes. Test episodes are logged as soon as
        ``test_nepisode`` of them are in, training episodes every ``runner_log_interval`` steps.

        Returns whether training statistics were logged (a runner then logs ``epsilon`` as well).
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
        """Return what is logged of an episode's ``info``, by name."""
        found = {}
        for key, value in info.items():
            name = env_name(key)
            if name != key:
                self._say_once(key, f"is logged as {name}_mean, as {key}_mean is a name of the program's own")
            try:
                # numpy's numbers, which environments give, too, add up otherwise than those read from a checkpoint.
                found[name] = float(value)
            except (TypeError, ValueError):
                self._say_once(key, f"is not logged, as its value is no number ({type(value).__name__})")
        return found

    def _say_once(self, key: str, what: str) -> None:
        if key not in self._said:
            self._said.add(key)
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
