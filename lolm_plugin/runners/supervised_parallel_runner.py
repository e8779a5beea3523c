"""Runner with one process per environment. A failing process costs one episode, not the run."""

import os
import weakref
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from lolm_plugin.errors import ConfigError
from lolm_plugin.randomness import environment_seed
from lolm_plugin.runners.env_process import EnvProcess, WorkerFault, answers, close
from lolm_plugin.runners.lockstep import LockstepRunner
from lolm_plugin.runners.runner import HostInterface

# Used for EPyMARL's algorithms, whose configurations lack these keys of our default.yaml.
DEFAULTS = {"worker_timeout": 300.0, "worker_restarts": 5}
SMAC = ("sc2", "sc2v2")  # SMAC reports a crash of StarCraft as the end of the episode, with an empty info


class SupervisedParallelRunner(LockstepRunner):
    """Run ``batch_size_run`` copies of ``args.env``, each in its own process and with its own keyed seed.

    A worker that dies, raises, or does not answer within ``args.worker_timeout`` seconds is killed with all processes
    that it started, and replaced by one with another seed. Its episode is dropped and played again when the others are
    over. The number of restarts is logged as ``env_restarts``. If all copies raise the same error the first time they
    execute a command, the run ends, because a restart would not help.

    Raises:
        ConfigError: the environment is unknown, rejects its arguments or raises in every copy, or the operating system
            has no process groups (Windows).
        RuntimeError: a worker failed again after ``args.worker_restarts`` restarts without a complete episode.
    """

    def __init__(self, args: Namespace, logger: Any, host: HostInterface) -> None:
        super().__init__(args, logger, host.EpisodeBatch)
        if not hasattr(os, "killpg"):
            raise ConfigError(
                f"runner={args.runner} needs process groups, which this operating system does not have; set "
                "runner=episode and batch_size_run, batch_size and buffer_size to 1."
            )
        self.timeout = getattr(args, "worker_timeout", DEFAULTS["worker_timeout"])
        self.max_restarts = getattr(args, "worker_restarts", DEFAULTS["worker_restarts"])
        self.restarts = [0] * self.batch_size
        self._in_a_row = [0] * self.batch_size  # restarts since the worker's last complete episode
        self._last_details = ""  # the last logged traceback, which is not repeated for a worker that keeps failing
        # The first reset launches StarCraft. It may fail once and succeed the next time.
        self._first_steps = ("build", "get_env_info", *(() if args.env in SMAC else ("reset", "step")))
        self._worked: set[str] = set()  # commands that an environment has executed at least once
        self._make_env = host.env_maker(args.env)
        self.workers: list[EnvProcess] = []
        self._unbuilt = set(range(self.batch_size))
        # Also closes when the runner is deleted or Python ends: EPyMARL does not close it after an exception.
        self._close = weakref.finalize(self, close, self.workers)
        try:
            for i in range(self.batch_size):
                self.workers.append(self._start(i))
            self._build(range(self.batch_size))
            while not (sizes := self.ask("get_env_info", {0: None})):
                pass
        except BaseException:
            self.close_env()
            raise
        self.env_info = sizes[0]
        self.episode_limit = self.env_info["episode_limit"]

    def get_env_info(self) -> dict[str, Any]:
        """Return the sizes of the environment: ``state_shape obs_shape n_actions n_agents episode_limit``."""
        return self.env_info

    def save_replay(self) -> None:
        """Save the replay of the first environment. Raises RuntimeError if this fails."""
        if not self.ask("save_replay", {0: None}):
            raise RuntimeError("The replay was not saved; the log has the worker's error.")

    def close_env(self) -> None:
        """Close every environment and end its processes. A second call does nothing."""
        self._close()

    def finish(self, returns: Sequence, lengths: Sequence[int], infos: Sequence[Mapping], test_mode: bool) -> None:
        """Record the episodes as ``Runner.finish`` does. A complete evaluation also logs the restarts."""
        super().finish(returns, lengths, infos, test_mode)
        if self._evaluates and test_mode and not self.stats.tested:
            self.logger.log_stat("env_restarts", sum(self.restarts), self.t_env)

    def train_stats(self) -> dict[str, float]:
        """Return the base class's values and ``env_restarts``, the restarts of all workers so far."""
        return {**super().train_stats(), "env_restarts": sum(self.restarts)}

    def state(self) -> dict[str, Any]:
        """Return the base class's state and each worker's number of restarts, which seeds its next restart."""
        return {**super().state(), "restarts": self.restarts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned. The number of workers may have changed."""
        super().load_state(state)
        for i, count in enumerate(state.get("restarts", ())):
            self.restarts[i % self.batch_size] += count

    def ask(self, command: str, data: Mapping[int, Any]) -> dict[int, Any]:
        """Execute a command; see ``LockstepRunner.ask``. A worker without an answer is restarted."""
        self._build(data)
        asked = {i: self.workers[i] for i in data}
        for i, worker in asked.items():
            worker.send(command, data[i])
        outcomes = {i: self._checked(i, outcome) for i, outcome in self._outcomes(asked)}
        self._refuse_if_none_works(command, outcomes)
        for i, outcome in outcomes.items():
            if isinstance(outcome, WorkerFault):
                self._restart(i, outcome)
            elif command == "step" and outcome["over"]:
                self._in_a_row[i] = 0
        return {i: outcome for i, outcome in outcomes.items() if not isinstance(outcome, WorkerFault)}

    def _outcomes(self, asked: Mapping[int, EnvProcess]) -> list[tuple[int, Any]]:
        return sorted(answers(asked, self.timeout), key=lambda indexed: indexed[0])

    def _checked(self, i: int, outcome: Any) -> Any:
        crashed = isinstance(outcome, dict) and outcome.get("over") and "battle_won" not in outcome["info"]
        if crashed and self.args.env in SMAC:
            # SMAC has already started another game, but parts of the environment's state are from the old one.
            return WorkerFault(f"lost its game {self.workers[i].doing}")
        return outcome

    def _start(self, i: int) -> EnvProcess:
        args = self.args
        env_args = {
            **args.env_args,
            # With the number of restarts as a key, a restarted worker plays new episodes.
            "seed": environment_seed(args.env_args["seed"], i, self.restarts[i]),
            "common_reward": args.common_reward,
            "reward_scalarisation": args.reward_scalarisation,
        }
        return EnvProcess(f"env worker {i}", partial(self._make_env, **env_args), env_args["seed"])

    def _build(self, indices: Collection[int]) -> None:
        """Wait until the environments of these workers are built; restart workers that fail."""
        while unbuilt := self._unbuilt & set(indices):
            self._unbuilt -= unbuilt
            outcomes = dict(self._outcomes({i: self.workers[i] for i in unbuilt}))
            self._refuse_if_none_works("build", outcomes)
            for i, outcome in outcomes.items():
                if isinstance(outcome, WorkerFault):
                    self._restart(i, outcome)

    def _refuse_if_none_works(self, command: str, outcomes: Mapping[int, Any]) -> None:
        """Raise ConfigError if all environments raised the same error and none has ever executed ``command``."""
        faults = [outcome for outcome in outcomes.values() if isinstance(outcome, WorkerFault)]
        if len(faults) < len(outcomes):
            self._worked.add(command)
        raised = {fault.raised for fault in faults}
        if command in self._worked or command not in self._first_steps or len(raised) != 1 or raised == {""}:
            return
        self.close_env()
        self.logger.console_logger.info("What the environment raised:\n%s", faults[0].details.rstrip())
        env_args = self.args.env_args.items()
        task = " ".join(f"{key}={value}" for key, value in env_args if key in ("map_name", "key"))
        raise ConfigError(
            f"env={self.args.env} with env_args {task} cannot be played: each of its processes {faults[0]}, which a "
            "restart would not change; the log has its traceback, so change env_args or correct the environment."
        )

    def _restart(self, i: int, fault: WorkerFault) -> None:
        """Replace a failed worker. The new environment is built while the others continue."""
        self.workers[i].kill()
        what = f"Environment worker {i} (env={self.args.env}) {fault}"
        # A repeated traceback is logged once, so that a worker that keeps failing does not fill the log.
        details = f"\n{fault.details.rstrip()}" if fault.details not in ("", self._last_details) else ""
        self._last_details = fault.details or self._last_details
        if self._in_a_row[i] >= self.max_restarts:
            self.close_env()
            raise RuntimeError(
                f"{what}, and worker_restarts={self.max_restarts} allows no further restart before it has played a "
                f"whole episode: correct the environment, or raise worker_timeout ({self.timeout:g} seconds) if it is "
                f"only slow, or worker_restarts if it may fail more often.{details}"
            )
        self._in_a_row[i] += 1
        self.restarts[i] += 1
        self.logger.console_logger.warning(
            "%s; it is restarted (env_restarts=%d) and its episode played again.%s", what, sum(self.restarts), details
        )
        self.workers[i] = self._start(i)
        self._unbuilt.add(i)
